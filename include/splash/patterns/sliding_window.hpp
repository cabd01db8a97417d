// SlidingWindow(left, right): i - left <= j <= i + right.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

struct SlidingWindow {
  static constexpr bool kSimple = true, kPart = true;  ///< a few integer instructions an answer

  int left = kUnlimited;   ///< keys before the query, kUnlimited for all
  int right = kUnlimited;  ///< keys after it; negative: keys are kept only from so far before it on

  /// ints: left, right; negative means unlimited. The dispatcher alone has a third one, in place of the second: how far
  /// before the query the nearest key lies.
  static SPLASH_HD SlidingWindow from(const PatternTerm& term) {
    return {side(term.ints[0]), term.num_ints == 3 ? -number(term.ints[2]) : side(term.ints[1])};
  }

  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    const SlidingWindow window = from(term);
    return widths.of_row(int64_t(window.left) + window.right + 1);
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int distance = frame.i(row) - frame.j(column);
    return distance <= left && -right <= distance;
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int nearest = frame.i(box.row_begin) - frame.j(box.column_end - 1);
    const int farthest = frame.i(box.row_end - 1) - frame.j(box.column_begin);
    if (farthest < -right || nearest > left || left < -right) return TileState::empty;
    return farthest <= left && nearest >= -right ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return next_within(frame.i(row_begin) - left - frame.k_start, frame.i(row_end - 1) + right - frame.k_start, column);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return next_within(frame.j(column_begin) - right - frame.q_start, frame.j(column_end - 1) + left - frame.q_start,
                       row);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int distance = frame.i(row) - frame.j(column);
    return bits_between(distance - left, distance + right);
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return left >= 0 && right >= 0; }

  SPLASH_HD SlidingWindow band() const { return *this; }

 private:
  static SPLASH_HD int side(int64_t limit) { return limit < 0 || limit > kUnlimited ? kUnlimited : int(limit); }
};

/// Patterns that are a window with particular sides; conjunctions of them are again one window.
template <class P>
concept Band = Pattern<P> && requires(const P pattern) {
  { pattern.band() } -> std::same_as<SlidingWindow>;
};

SPLASH_HD SlidingWindow intersect(const SlidingWindow& a, const SlidingWindow& b) {
  return {a.left < b.left ? a.left : b.left, a.right < b.right ? a.right : b.right};
}

}  // namespace patterns
SPLASH_NAMESPACE_END
