// Fixed(stride, summary): j <= i and (j // stride == i // stride or j % stride >= stride - summary).
#pragma once

#include "splash/patterns/block_diagonal.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Causal diagonal blocks, and from then on the last `summary` columns of every block.
struct Fixed {
  int stride = 64, summary = 1;

  /// ints: stride, summary.
  static SPLASH_HD Fixed from(const PatternTerm& term) {
    const int stride = most(number(term.ints[0]), 1);
    return {stride, least(number(term.ints[1]), stride)};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    if (term.ints[0] < 1 || term.ints[0] > kUnlimited) return "stride must be from 1 to 2^30";
    return term.ints[1] < 0 ? "summary must not be negative" : nullptr;
  }

  /// Tiles narrower than what lies between two runs of summaries miss both.
  static int block(const PatternTerm& term) { return term.ints[0] - term.ints[1] >= kNarrow ? kNarrow : 0; }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column);
    return j <= i && (floor_div(i, stride) == floor_div(j, stride) || is_summary(j));
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const TileState own = blocks().classify(frame, box);
    if (own == TileState::full) return own;
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    const int i0 = frame.i(box.row_begin), i1 = frame.i(box.row_end - 1);
    if (own == TileState::empty && next_summary(j0) > least(j1, i1)) return own;
    // Where all rows are in one block, columns of that block need not be summaries.
    const int block = floor_div(i0, stride);
    const int last = floor_div(i1, stride) == block ? least(j1, block * stride - 1) : j1;
    return j1 <= i0 && all_summaries(j0, last) ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int own = blocks().next_column(frame, row_begin, row_end, column);
    const int summary_column = next_summary(frame.j(column));
    return summary_column > frame.i(row_end - 1) ? own : least(own, summary_column - frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int own = blocks().next_row(frame, column_begin, column_end, row);
    const int summary_column = next_summary(frame.j(column_begin));
    if (summary_column > frame.j(column_end - 1)) return own;
    return least(own, most(row, summary_column - frame.q_start));
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int j = frame.j(column), distance = frame.i(row) - j;
    const int start = floor_mod(-j, stride) - summary;  // of the first run that does not end before j
    const uint64_t begun = bits_between(start, start + summary - 1);
    const uint64_t summaries = begun | repeated_bits(summary, stride, start + stride);
    return (blocks().kept_bits(frame, row, column) | summaries) & bits_between(0, distance);
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return true; }

 private:
  SPLASH_HD BlockDiagonal blocks() const { return {stride, true}; }
  SPLASH_HD bool is_summary(int j) const { return floor_mod(j, stride) >= stride - summary; }

  /// The first summary position from j on; kEnd where there are none at all.
  SPLASH_HD int next_summary(int j) const {
    if (summary == 0) return kEnd;
    const int behind = stride - summary - floor_mod(j, stride);
    return behind <= 0 ? j : j + behind;
  }

  /// Of the positions [first, last], which may be none.
  SPLASH_HD bool all_summaries(int first, int last) const {
    if (first > last || summary == stride) return true;
    return floor_div(first, stride) == floor_div(last, stride) && is_summary(first);
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
