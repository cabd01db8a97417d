// Staircase(stride, step, start): column < (i // stride - start) * step. Rows of the same stride keep the same columns,
// from the first one on, and each stride keeps `step` more than the one before it.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// What rows see of earlier blocks through a few columns of each (Fixed), once those columns lie side by side. Columns
/// are counted as they are, rows by their positions.
struct Staircase {
  static constexpr bool kSimple = true, kPart = true;

  FastDivide stride = 64, step = 1;
  int start = 0;  ///< the stride that keeps nothing yet

  /// ints: stride, step, start.
  static SPLASH_HD Staircase from(const PatternTerm& term) {
    const int64_t start = term.ints[2];
    const int64_t within = start < -kUnlimited ? -kUnlimited : (start > kUnlimited ? kUnlimited : start);
    return {most(number(term.ints[0]), 1), most(number(term.ints[1]), 1), int(within)};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    if (term.ints[0] < 1 || term.ints[0] > kUnlimited) return "stride must be from 1 to 2^30";
    return term.ints[1] < 1 || term.ints[1] > kUnlimited ? "step must be from 1 to 2^30" : nullptr;
  }

  /// Tiles end where steps do.
  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    return term.ints[1] % widths.narrow == 0 ? widths.narrow : 0;
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const { return column < end_of(frame, row); }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    if (box.column_begin >= end_of(frame, box.row_end - 1)) return TileState::empty;
    return box.column_end <= end_of(frame, box.row_begin) ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int, int row_end, int column) const {
    return column < end_of(frame, row_end - 1) ? column : kEnd;
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int, int row) const {
    const int64_t first = int64_t(step.quotient(column_begin) + 1 + start) * stride.divisor - frame.q_start;
    return first > frame.num_queries ? kEnd : most(row, int(first < 0 ? 0 : first));
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    return bits_to(end_of(frame, row) - 1 - column);
  }

 private:
  /// The first column that a row does not keep.
  SPLASH_HD int end_of(const Frame& frame, int row) const {
    const int64_t end = int64_t(floor_div(frame.i(row), stride) - start) * step.divisor;
    return end < 0 ? 0 : (end > kUnlimited ? kUnlimited : int(end));
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
