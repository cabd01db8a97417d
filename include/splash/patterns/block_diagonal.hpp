// BlockDiagonal(block, causal): i // block == j // block, and j <= i where it is causal.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

struct BlockDiagonal {
  static constexpr bool kSimple = true;

  FastDivide size = 64;
  bool causal = false;

  /// ints: block, causal.
  static SPLASH_HD BlockDiagonal from(const PatternTerm& term) {
    return {most(number(term.ints[0]), 1), term.ints[1] != 0};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    return term.ints[0] < 1 || term.ints[0] > kUnlimited ? "block must be from 1 to 2^30" : nullptr;
  }

  static int tile_columns(const PatternTerm& term, const TileWidths& widths) { return widths.of_row(term.ints[0]); }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column), first = round_down(i, size);
    return first <= j && j <= last_of(first, i);
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    const int i0 = frame.i(box.row_begin), i1 = frame.i(box.row_end - 1);
    const int first = round_down(i1, size);  // of the last row's block
    if (round_down(i0, size) > j1 || last_of(first, i1) < j0) return TileState::empty;
    return first <= least(i0, j0) && j1 <= last_of(first, i0) ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int i1 = frame.i(row_end - 1), last = causal ? i1 : last_of(round_down(i1, size), i1);
    return index_of(next_within(round_down(frame.i(row_begin), size), last, frame.j(column)), frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int j0 = frame.j(column_begin), end = round_down(frame.j(column_end - 1), size) + size.divisor;
    return index_of(next_within(causal ? j0 : round_down(j0, size), end - 1, frame.i(row)), frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column), first = round_down(i, size);
    return bits_between(first - j, last_of(first, i) - j);
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return true; }

  SPLASH_HD bool closes(int run) const { return run % size.divisor == 0; }

 private:
  /// The last column that row i keeps of a block that begins at `first`.
  SPLASH_HD int last_of(int first, int i) const { return causal ? i : first + size.divisor - 1; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
