// Fixed(stride, summary): j <= i and (j // stride == i // stride or j % stride >= stride - summary).
#pragma once

#include "splash/patterns/block_diagonal.hpp"
#include "splash/patterns/staircase.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Causal diagonal blocks, and from then on the last `summary` columns of every block.
struct Fixed {
  FastDivide stride;
  int summary;
  uint64_t runs;  ///< bits of the summaries, from the first one of a block on

  SPLASH_HD constexpr Fixed(int stride = 64, int summary = 1)
      : stride(stride), summary(least(summary, stride)), runs(repeated_bits(least(summary, stride), stride)) {}

  /// ints: stride, summary.
  static SPLASH_HD Fixed from(const PatternTerm& term) { return {most(number(term.ints[0]), 1), number(term.ints[1])}; }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    if (term.ints[0] < 1 || term.ints[0] > kUnlimited) return "stride must be from 1 to 2^30";
    return term.ints[1] < 0 ? "summary must not be negative" : nullptr;
  }

  /// Tiles narrower than what lies between two runs of summaries miss both.
  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    return term.ints[0] - term.ints[1] >= widths.narrow ? widths.narrow : 0;
  }

  /// The blocks on the diagonal, and the summaries of earlier blocks side by side.
  static int parts(const PatternTerm& term, const AttentionInputs& in, const int64_t (&band)[2],
                   Part (&parts)[kMaxParts]) {
    const Fixed fixed = from(term);
    const int64_t stride = fixed.stride.divisor, summary = fixed.summary, keys = in.k.shape[2];
    const Positions& p = in.positions;
    if (summary == stride) return parts[0] = window_part(band[0], 0, 1), 1;
    // Blocks that begin elsewhere in each sequence, and windows across the summaries, have no such layout.
    if (p.cu_queries || band[0] >= 0) return 0;
    int count = 0;
    const int64_t start = floor_div(int(p.k_start), fixed.stride);
    const int64_t first = (start + 1) * stride - summary - p.k_start;
    if (summary > 0 && first < 0) return 0;  // the tensor begins within a run
    const int64_t runs = summary > 0 && keys >= first + summary ? (keys - first - summary) / stride + 1 : 0;
    const int64_t last = (p.kv_lengths ? p.k_start + keys : p.q_start + in.q.shape[2]) - 1;
    // Rows may stand behind a run that the tensor ends within.
    if (summary > 0 && first + runs * stride < keys && floor_div(int(last), fixed.stride) > start + runs) return 0;
    parts[count++] = part_of<BlockDiagonal>({stride, 1});
    if (runs > 0) {
      parts[count] = part_of<Staircase>({stride, summary, start});
      parts[count++].key_runs = {summary, stride, first, runs * summary};
    }
    return count;
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column);
    return j <= i && (round_down(i, stride) <= j || until_summary(j) <= 0);
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    const int i0 = frame.i(box.row_begin), i1 = frame.i(box.row_end - 1);
    const int until = until_summary(j0);
    if (least(j1, i1) < least(most(round_down(i0, stride), j0), summary_from(j0, until))) return TileState::empty;
    // Where all rows are in one block, columns of that block need not be summaries.
    const int block = round_down(i1, stride);
    const int last = block <= i0 ? least(j1, block - 1) : j1;
    const bool summaries = summary == stride.divisor || (until <= 0 && last < j0 + until + summary);
    return j1 <= i0 && (last < j0 || summaries) ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int j = frame.j(column), own = most(round_down(frame.i(row_begin), stride), j);
    const int next = least(own, summary_from(j, until_summary(j)));
    return next > frame.i(row_end - 1) ? kEnd : next - frame.k_start;
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int i = frame.i(row), j0 = frame.j(column_begin), j1 = frame.j(column_end - 1);
    const int own = next_within(j0, round_down(j1, stride) + stride.divisor - 1, i);
    const int first = summary_from(j0, until_summary(j0));
    return index_of(first > j1 ? own : least(own, most(i, first)), frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column), until = until_summary(j);
    // A run that has begun before j, then those from the next block on; or all runs from the first one on.
    const uint64_t begun = until < 0 ? bits_to(until + summary - 1) : 0;
    const uint64_t summaries = begun | shifted_up(runs, until < 0 ? until + stride.divisor : until);
    return (bits_from(round_down(i, stride) - j) | summaries) & bits_to(i - j);
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return true; }

 private:
  /// From j to the first summary of its block; not positive where j is one, and without summaries never 0 or less.
  SPLASH_HD int until_summary(int j) const { return stride.divisor - summary - floor_mod(j, stride); }

  /// The first summary position from j on; kEnd where there are none at all.
  SPLASH_HD int summary_from(int j, int until) const { return summary == 0 ? kEnd : j + most(until, 0); }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
