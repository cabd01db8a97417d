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

/// Where the tile begins, of fragments that know it.
template <bool Known>
struct FirstColumn {};
template <>
struct FirstColumn<true> {
  int first_column = 0;
};

/// HasColumn: of a normalizer with kColumn, for which the consumers keep first_column.
template <class Accumulator, bool HasColumn = false>
struct AccumulatorFragment : FirstColumn<HasColumn> {
  Accumulator& registers;

  SPLASH_HD explicit AccumulatorFragment(Accumulator& registers) : registers(registers) {}

  static constexpr int columns() { return decltype(cute::size(Accumulator{}))::value / kFragmentRows; }
  __device__ __forceinline__ float column(int c) const {
    static_assert(HasColumn, "a normalizer that reads column() of a fragment says so by kColumn = true");
    return float(this->first_column + accumulator_column(int(threadIdx.x) & 31, c));
  }
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
