// Longformer(window, global_tokens, dilation, causal): (i - j) % dilation == 0 and |i - j| / dilation <= window, or j
// is global, or i is; and j <= i where it is causal.
#pragma once

#include "splash/patterns/comb.hpp"
#include "splash/patterns/globals.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

template <class Globals>
struct LongformerOf {
  Globals globals;
  Comb window;
  bool causal = false;

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column);
    return (!causal || j <= i) && (window.contains(i - j) || globals.contains(j) || globals.contains(i));
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    const int i0 = frame.i(box.row_begin), i1 = frame.i(box.row_end - 1);
    const TileState in_window = window.classify(i0 - j1, i1 - j0);
    if (in_window == TileState::empty && globals.next(j0) > (causal ? least(j1, i1) : j1) &&
        globals.next(causal ? most(i0, j0) : i0) > i1)
      return TileState::empty;
    if (causal && j1 > i0) return TileState::partial;
    const bool full = in_window == TileState::full || globals.all(j0, j1) || globals.all(i0, i1);
    return full ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int i0 = frame.i(row_begin), i1 = frame.i(row_end - 1), j = frame.j(column);
    if (causal && j > i1) return kEnd;
    // A global row keeps what comes before it, and every row itself.
    if (globals.next(i0) <= i1) return column;
    const int next = least(window.next_column(i0, i1, j), globals.next(j));
    return causal && next > i1 ? kEnd : index_of(next, frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int j0 = frame.j(column_begin), j1 = frame.j(column_end - 1), i = frame.i(row);
    const int global_column = globals.next(j0), first = causal ? most(i, j0) : i;
    const int by_column = global_column > j1 ? kEnd : (causal ? most(i, global_column) : i);
    const int next = least(by_column, least(window.next_row(j0, j1, i), globals.next(first)));
    return index_of(next, frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column);
    const uint64_t kept = globals.contains(i) ? ~uint64_t(0) : window.bits(i - j) | globals.bits(j);
    return causal ? kept & bits_to(i - j) : kept;
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return true; }

 protected:
  static const char* misfit_window(int64_t window, int64_t dilation) {
    if (window < 0) return "window must not be negative";
    return dilation < 1 || dilation > kUnlimited ? "dilation must be from 1 to 2^30" : nullptr;
  }
  static SPLASH_HD Comb comb(int64_t window, int64_t dilation, bool causal) {
    return Comb::of(number(window), most(number(dilation), 1), causal);
  }
};

/// The first `prefix` positions are global.
struct Longformer : LongformerOf<GlobalPrefix> {
  /// ints: window, prefix, dilation, causal.
  static SPLASH_HD Longformer from(const PatternTerm& term) {
    const bool causal = term.ints[3] != 0;
    return {{{number(term.ints[1])}, comb(term.ints[0], term.ints[2], causal), causal}};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    return term.ints[1] < 0 ? "prefix must not be negative" : misfit_window(term.ints[0], term.ints[2]);
  }

  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    const Comb window = from(term).window;
    return widths.of_row(int64_t(window.high) - window.low + 1);
  }

  /// A causal prefix sees little more than itself.
  static GlobalRows global_rows(const PatternTerm& term, const AttentionInputs& in) {
    return {term.ints[3] ? 0 : rows_before(number(term.ints[1]), in), 0};
  }

  static GlobalRows global_columns(const PatternTerm& term, const AttentionInputs& in) {
    return {columns_before(number(term.ints[1]), in), 0};
  }

  static bool residues(const PatternTerm& term, int64_t& dilation, int64_t (&sides)[2]) {
    return term.ints[1] <= 0 && from(term).window.residues(dilation, sides);
  }
};

/// Single positions are global.
struct LongformerTokens : LongformerOf<GlobalBits> {
  /// ints: window, dilation, causal. tensor: (words,) int32, bit w of word n stands for position 32 n + w.
  static SPLASH_HD LongformerTokens from(const PatternTerm& term) {
    const bool causal = term.ints[2] != 0;
    const TensorView& words = term.tensors[0];
    return {{{static_cast<const uint32_t*>(words.data), int(words.shape[0])},
             comb(term.ints[0], term.ints[1], causal),
             causal}};
  }

  /// Global columns lie alone.
  static int tile_columns(const PatternTerm&, const TileWidths& widths) { return widths.narrow; }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    const TensorView& words = term.tensors[0];
    if (words.dtype != DType::int32 || words.rank != 1 || words.shape[0] > kUnlimited / 32)
      return "the bits of the global positions must be int32 with one dimension";
    if (words.shape[0] > 1 && words.stride[0] != 1) return "the bits of the global positions must be contiguous";
    return misfit_window(term.ints[0], term.ints[1]);
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
