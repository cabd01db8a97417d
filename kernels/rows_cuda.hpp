// The row functions on CUDA for one element type, which the rows_cuda_*.cu instantiate.
#pragma once

#include "kernels/row_functions.hpp"
#include "splash/device/entmax_rows.hpp"

namespace splash::instances::sm90 {

template <class Run>
Status by_alpha(double alpha, const Run& run) {
  if (alpha == 1.5) return run(normalizers::SquareExponent{});
  if (alpha == 2.0) return run(normalizers::UnitExponent{});
  return run(normalizers::PowerExponent{});
}

template <class Element>
Status forward(const EntmaxRowsForward& arguments, const Execution& execution) {
  return by_alpha(arguments.alpha, [&](auto exponent) {
    return device::entmax_rows_forward<decltype(exponent), Element>(arguments, execution);
  });
}

template <class Element>
Status backward(const EntmaxRowsBackward& arguments, const Execution& execution) {
  return by_alpha(arguments.alpha, [&](auto exponent) {
    return device::entmax_rows_backward<decltype(exponent), Element>(arguments, execution);
  });
}

}  // namespace splash::instances::sm90
