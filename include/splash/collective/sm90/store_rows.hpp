// 64 rows of an accumulator tile on their way out: into shared memory, and from there to the tensor.
#pragma once

#include <cutlass/numeric_conversion.h>
#include <cute/arch/copy_sm90.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "splash/collective/outputs.hpp"
#include "splash/collective/sm90/fragment.hpp"
#include "splash/collective/sm90/tiles.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// Two neighbouring columns of a row as elements.
template <class Element, class Accumulator>
__device__ __forceinline__ uint32_t pair_of(const Accumulator& output, int r, int c,
                                            const float (&factor)[kFragmentRows]) {
  cutlass::NumericArrayConverter<Element, float, 2> convert;
  const cutlass::Array<float, 2> pair{scaled(output(accumulator_register(r, c)), factor[r]),
                                      scaled(output(accumulator_register(r, c + 1)), factor[r])};
  const cutlass::Array<Element, 2> converted = convert(pair);
  return reinterpret_cast<const uint32_t&>(converted);
}

/// To a float32 row-major (64, D) tile.
template <class Accumulator>
__device__ __forceinline__ void store_float_rows(float* tile, int head_dim, int thread, const Accumulator& output,
                                                 const float (&factor)[kFragmentRows]) {
  CUTE_UNROLL
  for (int r = 0; r < kFragmentRows; ++r) {
    float* row = tile + accumulator_row(thread, r) * head_dim;
    CUTE_UNROLL
    for (int c = 0; c < cute::size(output) / kFragmentRows; c += 2)
      *reinterpret_cast<float2*>(row + accumulator_column(thread & 31, c)) =
          make_float2(scaled(output(accumulator_register(r, c)), factor[r]),
                      scaled(output(accumulator_register(r, c + 1)), factor[r]));
  }
}

/// To a (64, D) tile of shared memory, in the layout that Q has there.
template <class Tile, class Accumulator>
__device__ __forceinline__ void stage_rows(Tile&& tile, int thread, const Accumulator& output,
                                           const float (&factor)[kFragmentRows]) {
  using Element = typename cute::remove_cvref_t<Tile>::value_type;
  constexpr int kColumns = decltype(cute::size(output))::value / kFragmentRows * 4;
  // Four 8 x 8 matrices a stmatrix: rows 0 to 7 and 8 to 15 of the warp, of two neighbouring blocks of 8 columns.
  const int lane = thread & 31;
  const int row = (thread >> 5) * 16 + (lane & 15), column = (lane >> 4) * 8;
  CUTE_UNROLL
  for (int block = 0; block < kColumns / 8; block += 2)
    cute::SM90_U32x4_STSM_N::copy(
        pair_of<Element>(output, 0, 2 * block, factor), pair_of<Element>(output, 1, 2 * block, factor),
        pair_of<Element>(output, 0, 2 * block + 2, factor), pair_of<Element>(output, 1, 2 * block + 2, factor),
        *reinterpret_cast<cute::uint128_t*>(&tile(row, column + 8 * block)));
}

/// 16 bytes of elements, each a + b.
template <class Element>
__device__ __forceinline__ uint4 sum_of(const uint4& a, const uint4& b) {
  uint4 sum;
  CUTE_UNROLL
  for (int n = 0; n < 16 / int(sizeof(Element)); ++n)
    reinterpret_cast<Element*>(&sum)[n] =
        Element(float(reinterpret_cast<const Element*>(&a)[n]) + float(reinterpret_cast<const Element*>(&b)[n]));
  return sum;
}

/// Staged rows to global memory, or added to what is there, 16 bytes a thread: address(row) is where row begins,
/// nullptr where it goes nowhere.
template <int HeadDim, class Tile, class Address>
__device__ __forceinline__ void copy_rows(const Tile& tile, int thread, int head_dim, bool adds,
                                          const Address& address) {
  using Element = typename Tile::value_type;
  constexpr int kChunk = 16 / int(sizeof(Element)), kChunks = HeadDim / kChunk;
#pragma unroll 1
  for (int n = thread; n < 64 * kChunks; n += 128) {
    const int row = n / kChunks, column = n % kChunks * kChunk;
    Element* to = column < head_dim ? address(row) : nullptr;
    if (!to) continue;
    uint4& there = *reinterpret_cast<uint4*>(to + column);
    const uint4& own = *reinterpret_cast<const uint4*>(&tile(row, column));
    there = adds ? sum_of<Element>(there, own) : own;
  }
}

}  // namespace collective
SPLASH_NAMESPACE_END
