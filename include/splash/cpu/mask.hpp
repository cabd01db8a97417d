// A pattern applied to a tile of scores on the host.
#pragma once

#include "splash/cpu/tile.hpp"
#include "splash/patterns/sliding_window.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// What the lanes of a score tile are: S[key][query] in the forward, S[query][key] in the backward.
enum class Lanes { queries, keys };

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

/// Any pattern: squares that it keeps whole or not at all cost one question, the others one an element.
template <Lanes kLanes, class P, class Real>
[[gnu::noinline]] void mask_squares(const P& pattern, const Frame& frame, const Box& tile, Matrix<Real> scores) {
  constexpr int kSide = 16;
  constexpr Real kMasked = -math::kInfinity<Real>;
  const bool queries = kLanes == Lanes::queries;
  for (int r = tile.row_begin; r < tile.row_end; r += kSide) {
    for (int c = tile.column_begin; c < tile.column_end; c += kSide) {
      const Box box{r, r + kSide < tile.row_end ? r + kSide : tile.row_end, c,
                    c + kSide < tile.column_end ? c + kSide : tile.column_end};
      const TileState state = pattern.classify(frame, box);
      if (state == TileState::full) continue;
      for (int row = box.row_begin; row < box.row_end; ++row) {
        for (int column = box.column_begin; column < box.column_end; ++column) {
          if (state == TileState::partial && pattern.keep(frame, row, column)) continue;
          const int line = queries ? column - tile.column_begin : row - tile.row_begin;
          const int lane = queries ? row - tile.row_begin : column - tile.column_begin;
          scores.data[line * scores.stride + lane] = kMasked;
        }
      }
    }
  }
}

/// -inf where the pattern drops a score. Conjunctions are applied term by term, windows by vectors.
template <Lanes kLanes, class P, class Real>
SPLASH_HD void mask_tile(const P& pattern, const Frame& frame, const Box& tile, Matrix<Real> scores) {
  if constexpr (requires { pattern.each_term([](const auto&) {}); }) {
    pattern.each_term([&](const auto& term) { mask_tile<kLanes>(term, frame, tile, scores); });
  } else {
    if (pattern.classify(frame, tile) == TileState::full) return;
    if constexpr (patterns::Band<P>) {
      const patterns::SlidingWindow window = pattern.band();
      const int64_t distance = int64_t(frame.i(tile.row_begin)) - frame.j(tile.column_begin);
      const int rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
      const uint64_t length = uint64_t(window.left) + uint64_t(window.right);
      if constexpr (kLanes == Lanes::queries)
        mask_outside<Real>(scores, columns, rows, -window.right - distance, length);
      else
        mask_outside<Real>(scores, rows, columns, distance - window.left, length);
    } else {
      mask_squares<kLanes, P, Real>(pattern, frame, tile, scores);
    }
  }
}

/// The columns of a tile that some row keeps, as bits. Slow: only asked where a key or value is NaN or inf.
template <class P>
[[gnu::noinline, gnu::cold]] uint64_t kept_columns(const P& pattern, const Frame& frame, const Box& tile) {
  uint64_t kept = 0;
  for (int c = tile.column_begin; c < tile.column_end; ++c)
    for (int r = tile.row_begin; r < tile.row_end; ++r)
      if (pattern.keep(frame, r, c)) {
        kept |= uint64_t(1) << (c - tile.column_begin);
        break;
      }
  return kept;
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
