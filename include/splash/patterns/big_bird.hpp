// BigBird: blocks of positions, i // size and j // size, that neighbours, first and last blocks and a random draw
// keep (big_bird_draw.hpp); j <= i, too, where it is causal.
#pragma once

#include "splash/patterns/block_bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// A square mask of blocks of the whole sequence, as bits by rows and by columns. Nothing is kept outside of it, and
/// every block keeps itself.
struct BigBird {
  static constexpr bool kBlockLists = true;  ///< tiles as large as its blocks are whole
  BlockBits by_row, by_column;
  BlockSize size = 64;  ///< positions of a block
  int length = 0;       ///< positions in all blocks
  bool causal = false;

  /// ints: block, causal, first and last blocks that see and are seen by all. tensors: by_row, by_column, both (B|1,
  /// Hq|1, blocks, ceil(blocks / 32)) int32; the first and last blocks are in there, too.
  static SPLASH_HD BigBird from(const PatternTerm& term) {
    const TensorView &by_row = term.tensors[0], &by_column = term.tensors[1];
    const int block = most(number(term.ints[0]), 1);
    return {BlockBits::of(by_row, by_column), BlockBits::of(by_column, by_row), block, number(by_row.shape[2] * block),
            term.ints[1] != 0};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    if (term.ints[0] < 1 || term.ints[0] > kUnlimited) return "block must be from 1 to 2^30";
    if (term.ints[2] < 0 || term.ints[3] < 0) return "first and last must not be negative";
    const int64_t blocks = term.tensors[0].shape[2];
    if (blocks > kUnlimited || (blocks - 1) * term.ints[0] > kUnlimited) return "its blocks reach past position 2^30";
    for (int n = 0; n < 2; ++n)
      if (!PerHead::fits(term.tensors[n], in, {blocks, (blocks + 31) / 32}))
        return "by_row and by_column must be contiguous int32 (B|1, Hq|1, blocks, ceil(blocks / 32))";
    return nullptr;
  }

  /// The drawn blocks lie apart from each other.
  static int block(const PatternTerm& term) { return term.ints[0] % (2 * kNarrow) ? kNarrow : 2 * kNarrow; }

  /// Where it is causal, the first rows see little more than themselves.
  static GlobalRows global_rows(const PatternTerm& term, const AttentionInputs& in) {
    const int64_t block = term.ints[0], blocks = term.tensors[0].shape[2];
    const int64_t first = least(number(term.ints[2]), int(blocks)), last = least(number(term.ints[3]), int(blocks));
    const int64_t rows = in.positions.cu_queries ? in.positions.max_queries : in.q.shape[2];
    return {term.ints[1] ? 0 : rows_before(first * block, in), rows - rows_before((blocks - last) * block, in)};
  }

  static GlobalRows global_columns(const PatternTerm& term, const AttentionInputs& in) {
    const int64_t block = term.ints[0], blocks = term.tensors[0].shape[2];
    const int64_t first = least(number(term.ints[2]), int(blocks)), last = least(number(term.ints[3]), int(blocks));
    const int64_t columns = in.positions.cu_keys ? in.positions.max_keys : in.k.shape[2];
    return {columns_before(first * block, in),
            term.ints[1] ? 0 : columns - columns_before((blocks - last) * block, in)};
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column);
    if (i < 0 || j < 0 || i >= length || j > last_of(i)) return false;
    return by_row.keep(frame, size.quotient(i), size.quotient(j));
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int i0 = frame.i(box.row_begin), i1 = frame.i(box.row_end - 1);
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    // What can be kept lies in this part of the box.
    const int last_row = least(i1, length - 1), last = least(j1, last_of(last_row));
    const int first = most(j0, 0), first_row = most(i0, causal ? first : 0);
    if (first > last || first_row > last_row) return TileState::empty;
    const TileState state = by_row.classify(frame, size.quotient(first_row), size.quotient(last_row),
                                            size.quotient(first), size.quotient(last));
    const bool whole = i0 >= 0 && j0 >= 0 && i1 < length && j1 <= last_of(i0);
    return state == TileState::full && !whole ? TileState::partial : state;
  }

  SPLASH_HD bool has_tile_bits(const Frame& frame, int tile) const {
    return tile == size.divisor && frame.k_start == 0;
  }

  SPLASH_HD TileBits tile_bits(const Frame& frame, int row_begin, int row_end, int word) const {
    const int i0 = frame.i(row_begin), i1 = frame.i(row_end - 1);
    const int first = most(i0, 0), last = least(i1, length - 1);
    if (first > last) return {0, 0};
    TileBits bits = by_row.tile_bits(frame, size.quotient(first), size.quotient(last), word);
    if (i0 < 0 || i1 >= length) bits.full = 0;
    if (causal) {  // tiles up to the last row's, full ones before the first row's
      bits.kept &= uint32_t(bits_to(size.quotient(last) - 32 * word));
      bits.full &= uint32_t(bits_to(size.quotient(first + 1) - 1 - 32 * word));
    }
    return bits;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int first = most(frame.i(row_begin), 0), last = least(frame.i(row_end - 1), length - 1);
    if (first > last) return kEnd;
    const int from = most(frame.j(column), 0);
    const int next = by_row.next(frame, size.quotient(first), size.quotient(last), size, from);
    return next > last_of(last) ? kEnd : next - frame.k_start;
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int first = most(frame.j(column_begin), 0), last = least(frame.j(column_end - 1), length - 1);
    if (first > last) return kEnd;
    const int from = most(frame.i(row), causal ? first : 0);
    const int next = by_column.next(frame, size.quotient(first), size.quotient(last), size, from);
    return index_of(next, frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column), from = most(j, 0);
    if (i < 0 || i >= length) return 0;
    const int line = size.quotient(i);
    const bool small = size.divisor < BlockSize::kSpread;
    const uint64_t kept = small ? by_row.bits_of_small(frame, line, size, from) : by_row.bits(frame, line, size, from);
    return shifted_up(kept, from - j) & bits_to(last_of(i) - j);
  }

  SPLASH_HD bool keeps_self(const Frame& frame) const {
    const int first = most(frame.q_start, frame.k_start);
    const int end = least(frame.i(frame.num_queries), frame.j(frame.num_keys));
    return first >= end || (first >= 0 && end <= length);
  }

 private:
  /// The last position that row i may keep.
  SPLASH_HD int last_of(int i) const { return causal ? i : length - 1; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
