// BlockDiagonal(block, causal): i // block == j // block, and j <= i where it is causal.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

struct BlockDiagonal {
  int size = 64;
  bool causal = false;

  /// ints: block, causal.
  static SPLASH_HD BlockDiagonal from(const PatternTerm& term) {
    return {most(number(term.ints[0]), 1), term.ints[1] != 0};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    return term.ints[0] < 1 || term.ints[0] > kUnlimited ? "block must be from 1 to 2^30" : nullptr;
  }

  static int block(const PatternTerm& term) { return block_for(term.ints[0]); }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column);
    return (!causal || j <= i) && floor_div(i, size) == floor_div(j, size);
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    const int i0 = frame.i(box.row_begin), i1 = frame.i(box.row_end - 1);
    if (start(i0) > j1 || start(j0) > i1 || (causal && j0 > i1)) return TileState::empty;
    const bool one = start(least(i0, j0)) == start(most(i1, j1));
    return one && (!causal || j1 <= i0) ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int i1 = frame.i(row_end - 1);
    return index_of(next_within(start(frame.i(row_begin)), causal ? i1 : end(i1) - 1, frame.j(column)), frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int j0 = frame.j(column_begin);
    return index_of(next_within(causal ? j0 : start(j0), end(frame.j(column_end - 1)) - 1, frame.i(row)),
                    frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column), first = start(i) - j;
    return bits_between(first, causal ? i - j : first + size - 1);
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return true; }

 private:
  /// Of the block that a position lies in.
  SPLASH_HD int start(int position) const { return floor_div(position, size) * size; }
  SPLASH_HD int end(int position) const { return start(position) + size; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
