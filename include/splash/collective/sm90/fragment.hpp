// A thread's part of a 64-row accumulator tile as a normalizer's Fragment, and the reduction over the quad that shares
// rows.
#pragma once

#include <cute/tensor.hpp>

#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// Accumulators of wgmma m64nNk16: register 4 n + 2 r + e of a thread holds row 16 warp + lane / 4 + 8 r and
/// column 8 n + 2 (lane % 4) + e.
inline constexpr int kFragmentRows = 2;

SPLASH_HD constexpr int accumulator_register(int r, int c) { return (c >> 1) * 4 + r * 2 + (c & 1); }
SPLASH_HD constexpr int accumulator_column(int lane, int c) { return (c >> 1) * 8 + (lane & 3) * 2 + (c & 1); }
SPLASH_HD constexpr int accumulator_row(int thread, int r) {
  return ((thread >> 5) & 3) * 16 + ((thread & 31) >> 2) + 8 * r;
}

template <class Accumulator>
struct AccumulatorFragment {
  Accumulator& registers;

  static constexpr int columns() { return decltype(cute::size(Accumulator{}))::value / kFragmentRows; }
  SPLASH_HD float get(int r, int c) const { return registers(accumulator_register(r, c)); }
  SPLASH_HD void set(int r, int c, float value) { registers(accumulator_register(r, c)) = value; }
};

struct QuadReduce {
  __device__ __forceinline__ float max(float value) const {
    value = math::max(value, __shfl_xor_sync(~0u, value, 1));
    return math::max(value, __shfl_xor_sync(~0u, value, 2));
  }
  __device__ __forceinline__ float sum(float value) const {
    value += __shfl_xor_sync(~0u, value, 1);
    return value + __shfl_xor_sync(~0u, value, 2);
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
