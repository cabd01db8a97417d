// A bias by distance, b[i - j], on tiles of scores, and its gradient from tiles of dS.
#pragma once

#include "splash/core/frame.hpp"
#include "splash/cpu/fragment.hpp"
#include "splash/cpu/gemm.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// Adds factor * b[i - j] where 0 <= i - j < count. Lanes of a line are neighbours in b, in falling order where they
/// are keys.
template <Lanes kLanes, class Real>
[[gnu::noinline]] void add_bias(const Real* bias, int count, Real factor, const Frame& frame, const Box& tile,
                                Matrix<Real> scores) {
  const int rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
  const int first = frame.i(tile.row_begin) - frame.j(tile.column_begin);  // distance of the tile's first score
  if constexpr (kLanes == Lanes::queries) {
    for (int c = 0; c < columns; ++c) {
      const int distance = first - c;
      const int begin = clamp_to(-distance, 0, rows), end = clamp_to(count - distance, begin, rows);
      Real* line = scores.data + c * scores.stride;
      for (int l = begin; l < end; ++l) line[l] += factor * bias[distance + l];
    }
  } else {
    for (int r = 0; r < rows; ++r) {
      const int distance = first + r;
      const int begin = clamp_to(distance - count + 1, 0, columns), end = clamp_to(distance + 1, begin, columns);
      Real* line = scores.data + r * scores.stride;
      for (int l = begin; l < end; ++l) line[l] += factor * bias[distance - l];
    }
  }
}

/// Adds dS[query][key] to reversed[count - 1 - (i - j)]: in that order the keys of a row are neighbours.
template <class Real>
[[gnu::noinline]] void collect_bias(Matrix<const Real> ds, int count, const Frame& frame, const Box& tile,
                                    Real* reversed) {
  const int rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
  const int first = frame.i(tile.row_begin) - frame.j(tile.column_begin);
  for (int r = 0; r < rows; ++r) {
    const int distance = first + r;
    const int begin = clamp_to(distance - count + 1, 0, columns), end = clamp_to(distance + 1, begin, columns);
    const Real* line = ds.data + r * ds.stride;
    for (int l = begin; l < end; ++l) reversed[count - 1 - distance + l] += line[l];
  }
}

}  // namespace cpu
SPLASH_NAMESPACE_END
