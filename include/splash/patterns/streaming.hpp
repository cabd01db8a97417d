// Streaming(sink, window): j <= i and (j < sink or i - j < window).
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

struct Streaming {
  static constexpr bool kSimple = true;

  int sink = 16;    ///< keys at the start that every query keeps
  int window = 64;  ///< last keys of a query, itself included

  /// ints: sink, window.
  static SPLASH_HD Streaming from(const PatternTerm& term) { return {number(term.ints[0]), number(term.ints[1])}; }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    return term.ints[0] < 0 || term.ints[1] < 0 ? "sink and window must not be negative" : nullptr;
  }

  static int tile_columns(const PatternTerm& term, const TileWidths& widths) { return widths.of_row(term.ints[1]); }

  static GlobalRows global_columns(const PatternTerm& term, const AttentionInputs& in) {
    return {columns_before(term.ints[0], in), 0};
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int j = frame.j(column), distance = frame.i(row) - j;
    return distance >= 0 && (j < sink || distance < window);
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    const int i0 = frame.i(box.row_begin), i1 = frame.i(box.row_end - 1);
    if (j0 > i1 || (j0 >= sink && most(i0 - j1, 0) >= window)) return TileState::empty;
    return j1 <= i0 && (j1 < sink || i1 - most(j0, sink) < window) ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int j = frame.j(column), first = j < sink ? j : frame.i(row_begin) - window + 1;
    return index_of(next_within(first, frame.i(row_end - 1), j), frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int first = frame.j(column_begin), last = first < sink ? kEnd - 1 : frame.j(column_end - 1) + window - 1;
    return index_of(next_within(first, last, frame.i(row)), frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int j = frame.j(column), distance = frame.i(row) - j;
    return bits_to(distance) & (bits_to(sink - 1 - j) | bits_from(distance - window + 1));
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return window > 0; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
