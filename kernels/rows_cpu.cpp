// The row functions on the CPU; compiled once for each instruction set.
#include "kernels/row_functions.hpp"
#include "splash/cpu/entmax_rows.hpp"

namespace splash::instances::SPLASH_ISA {
namespace {

template <class Run>
Status dispatch(double alpha, DType dtype, const Run& run) {
  const auto with_exponent = [&](auto exponent) {
    switch (dtype) {
      case DType::float16:
        return run(exponent, float{}, half_t{});
      case DType::bfloat16:
        return run(exponent, float{}, bfloat16_t{});
      case DType::float32:
        return run(exponent, float{}, float{});
      default:
        return run(exponent, double{}, double{});
    }
  };
  if (alpha == 1.5) return with_exponent(normalizers::SquareExponent{});
  if (alpha == 2.0) return with_exponent(normalizers::UnitExponent{});
  return with_exponent(normalizers::PowerExponent{});
}

Status forward(const EntmaxRowsForward& arguments, const Execution& execution) {
  return dispatch(arguments.alpha, arguments.dtype, [&](auto exponent, auto real, auto element) {
    return cpu::entmax_rows_forward<decltype(real), decltype(exponent), decltype(element)>(arguments, execution);
  });
}

Status backward(const EntmaxRowsBackward& arguments, const Execution& execution) {
  return dispatch(arguments.alpha, arguments.dtype, [&](auto exponent, auto real, auto element) {
    return cpu::entmax_rows_backward<decltype(real), decltype(exponent), decltype(element)>(arguments, execution);
  });
}

}  // namespace

RowFunctions entmax_rows() { return {forward, backward}; }

}  // namespace splash::instances::SPLASH_ISA
