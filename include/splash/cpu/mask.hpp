// A pattern applied to a tile of scores on the host.
#pragma once

#include <type_traits>

#include "splash/cpu/fragment.hpp"
#include "splash/cpu/tile.hpp"
#include "splash/patterns/sliding_window.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// -inf for every lane l of line n outside of [first + n, first + n + length].
template <class Real>
[[gnu::noinline]] void mask_outside(Matrix<Real> scores, int lines, int lanes, int64_t first, uint64_t length) {
  using Value = Simd<Real>;
  using Natural = typename VectorOf<Real>::natural;
  using Index = typename VectorOf<Real>::Index;
  constexpr int W = Value::kLanes;
  Natural iota;
  for (int l = 0; l < W; ++l) iota[l] = Index(l);
  for (int n = 0; n < lines; ++n, ++first) {
    for (int v = 0; v < lanes; v += W) {
      const Natural distance = iota + Index(v - first);
      const typename Value::Mask kept{typename Value::Integer(distance <= Index(length))};
      Real* p = scores.data + n * scores.stride + v;
      Value::select(kept, Value::load(p), Value(-math::kInfinity<Real>)).store(p);
    }
  }
}

/// A tile of scores as bits: bit c of word r is row r, column c of the tile.
using TileBits = uint64_t[kTile];

/// Clears what a pattern that is no conjunction drops.
template <class P>
[[gnu::noinline]] void drop_bits(const P& pattern, const Frame& frame, const Box& tile, TileBits& kept) {
  for (int row = tile.row_begin; row < tile.row_end; ++row)
    kept[row - tile.row_begin] &= patterns::kept_bits(pattern, frame, row, tile.column_begin);
}

/// Exchanges rows and columns: squares of half the side change places, and so on inside of them.
[[gnu::noinline]] inline void transpose_bits(TileBits& bits) {
  uint64_t low = 0xffffffff;
  for (int side = kTile / 2; side; side /= 2, low ^= low << side)
    for (int first = 0; first < kTile; first += 2 * side)
      for (int n = first; n < first + side; ++n) {
        const uint64_t change = (bits[n] >> side ^ bits[n + side]) & low;
        bits[n] ^= change << side;
        bits[n + side] ^= change;
      }
}

/// -inf where bit l of word n is clear, for every lane l of line n.
template <class Real>
[[gnu::noinline]] void mask_dropped(Matrix<Real> scores, int lines, int lanes, const TileBits& kept) {
  using Value = Simd<Real>;
  using Natural = typename VectorOf<Real>::natural;
  using Index = typename VectorOf<Real>::Index;
  constexpr int W = Value::kLanes;
  Natural bit;
  for (int l = 0; l < W; ++l) bit[l] = Index(1) << l;
  for (int n = 0; n < lines; ++n) {
    for (int v = 0; v < lanes; v += W) {
      const Natural word = Natural{} + Index(kept[n] >> v);
      const typename Value::Mask mask{typename Value::Integer((word & bit) != 0)};
      Real* p = scores.data + n * scores.stride + v;
      Value::select(mask, Value::load(p), Value(-math::kInfinity<Real>)).store(p);
    }
  }
}

template <Lanes kLanes, class Real>
SPLASH_HD void mask_outside(const patterns::SlidingWindow& window, const Frame& frame, const Box& tile,
                            Matrix<Real> scores) {
  const int64_t distance = int64_t(frame.i(tile.row_begin)) - frame.j(tile.column_begin);
  const int rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
  const uint64_t length = uint64_t(window.left) + uint64_t(window.right);
  if constexpr (kLanes == Lanes::queries)
    mask_outside<Real>(scores, columns, rows, -window.right - distance, length);
  else
    mask_outside<Real>(scores, rows, columns, distance - window.left, length);
}

/// f(term) for the terms of a conjunction, however deep, and for a pattern that is none itself.
template <class P, class F>
SPLASH_HD void each_part(const P& pattern, F&& f) {
  if constexpr (requires { pattern.each_term([](const auto&) {}); })
    pattern.each_term([&](const auto& term) { each_part(term, f); });
  else
    f(pattern);
}

/// -inf where the pattern drops a score of a tile of at most kTile rows and columns. Windows are applied by vectors
/// alone, all other terms of a conjunction together, as bits.
template <Lanes kLanes, class P, class Real>
[[gnu::noinline]] void mask_tile(const P& pattern, const Frame& frame, const Box& tile, Matrix<Real> scores) {
  TileBits kept;
  bool dropped = false;
  each_part(pattern, [&](const auto& part) {
    if (part.classify(frame, tile) == TileState::full) return;
    if constexpr (patterns::Band<std::remove_cvref_t<decltype(part)>>) {
      mask_outside<kLanes, Real>(part.band(), frame, tile, scores);
    } else {
      if (!dropped) __builtin_memset(kept, 0xff, sizeof kept);
      dropped = true;
      drop_bits(part, frame, tile, kept);
    }
  });
  if (!dropped) return;
  const int rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
  if constexpr (kLanes == Lanes::queries) {
    transpose_bits(kept);
    mask_dropped<Real>(scores, columns, rows, kept);
  } else {
    mask_dropped<Real>(scores, rows, columns, kept);
  }
}

/// The bits of every row of a tile; those of columns outside of the frame mean nothing.
template <class P>
[[gnu::noinline]] void tile_bits(const P& pattern, const Frame& frame, const Box& tile, TileBits& kept) {
  __builtin_memset(kept, 0xff, sizeof(uint64_t) * std::size_t(tile.row_end - tile.row_begin));
  each_part(pattern, [&](const auto& part) { drop_bits(part, frame, tile, kept); });
}

/// The columns of a tile that some row keeps, as bits.
template <class P>
[[gnu::noinline]] uint64_t kept_columns(const P& pattern, const Frame& frame, const Box& tile) {
  TileBits kept;
  tile_bits(pattern, frame, tile, kept);
  uint64_t any = 0;
  for (int row = tile.row_begin; row < tile.row_end; ++row) any |= kept[row - tile.row_begin];
  return any & patterns::bits_between(0, tile.column_end - tile.column_begin - 1);
}

/// A copy of the rows in which those without a bit are zero.
template <class Real>
[[gnu::noinline, gnu::cold]] Matrix<const Real> without_rows(Matrix<const Real> tile, int rows, int width,
                                                             uint64_t kept, Real* scratch) {
  for (int r = 0; r < rows; ++r)
    for (int d = 0; d < width; ++d)
      scratch[int64_t(r) * width + d] = kept >> r & 1 ? tile.data[r * tile.stride + d] : Real(0);
  return {scratch, width};
}

}  // namespace cpu
SPLASH_NAMESPACE_END
