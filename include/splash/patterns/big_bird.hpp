// BigBird: blocks of positions, i // size and j // size, that neighbours, first and last blocks and a random draw
// keep (big_bird_draw.hpp); j <= i, too, where it is causal.
#pragma once

#include "splash/patterns/block_bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Blocks as bits, by rows and by columns: of the blocks that the rows and columns of a problem lie in, not of the
/// whole sequence. Every block keeps itself.
struct BigBird {
  static constexpr bool kBlockLists = true;  ///< tiles as large as its blocks are whole
  BlockBits by_row, by_column;
  BlockSize size = 64;  ///< positions of a block
  int length = 0;  ///< positions in all blocks of the whole sequence; kUnlimited where each problem ends with its own
  bool causal = false;

  /// ints: block, causal, first and last blocks that see and are seen by all, length. tensors: by_row, by_column,
  /// int32. Line 0 of by_row is the block of the first row at a position from 0 on, bit 0 that of the first such
  /// column: (B|1, Hq|1, lines, words). Packed, (Hq|1, lines, words), the lines of a sequence begin two a sequence
  /// before it, and one a whole block of rows before it, after line 0. by_column: with rows and columns exchanged.
  static SPLASH_HD BigBird from(const PatternTerm& term) {
    return {lines(term.tensors[0]), lines(term.tensors[1]), most(number(term.ints[0]), 1), number(term.ints[4]),
            term.ints[1] != 0};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    if (term.ints[0] < 1 || term.ints[0] > kUnlimited) return "block must be from 1 to 2^30";
    if (term.ints[2] < 0 || term.ints[3] < 0) return "first and last must not be negative";
    if (term.ints[4] < 0 || term.ints[4] > kUnlimited) return "length must be from 0 to 2^30";
    const Positions& p = in.positions;
    const int64_t block = term.ints[0], rows = in.q.shape[2], columns = in.k.shape[2];
    const bool ends_differ = p.cu_queries || p.kv_lengths;
    const int64_t blocks[] = {ends_differ ? most_blocks(longest(rows, p.cu_queries, p.max_queries), block)
                                          : blocks_of(p.q_start, rows, block),
                              blocks_of(p.k_start, longest(columns, p.cu_keys, p.max_keys), block)};
    for (int n = 0; n < 2; ++n) {
      const TensorView& view = term.tensors[n];
      const int64_t words = (blocks[1 - n] + 31) / 32;
      if (!p.cu_queries ? !PerHead::fits(view, in, {blocks[n], words})
                        : !fits_packed(view, in, (n ? columns : rows) / block + 2 * p.sequences, words))
        return "by_row must be contiguous int32 (B|1, Hq|1, blocks of the rows, ceil(blocks of the columns / 32)), "
               "packed (Hq|1, Tq / block + 2 B, the same of the longest sequence), by_column with both exchanged";
    }
    return nullptr;
  }

  /// The drawn blocks lie apart from each other.
  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    return term.ints[0] % (2 * widths.narrow) ? widths.narrow : 2 * widths.narrow;
  }

  /// Where it is causal, the first rows see little more than themselves.
  static GlobalRows global_rows(const PatternTerm& term, const AttentionInputs& in) {
    const int64_t rows = in.positions.cu_queries ? in.positions.max_queries : in.q.shape[2];
    const GlobalRows ends = global_ends(term, in);
    return {term.ints[1] ? 0 : rows_before(ends.first, in), rows - rows_before(ends.last, in)};
  }

  static GlobalRows global_columns(const PatternTerm& term, const AttentionInputs& in) {
    const int64_t columns = in.positions.cu_keys ? in.positions.max_keys : in.k.shape[2];
    const GlobalRows ends = global_ends(term, in);
    return {columns_before(ends.first, in), term.ints[1] ? 0 : columns - columns_before(ends.last, in)};
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column);
    if (i < 0 || j < 0 || (causal && j > i)) return false;
    return by_row.keep(frame, size.quotient(i) + row_line(frame), size.quotient(j) - origin(frame.k_start));
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int i0 = frame.i(box.row_begin), last_row = frame.i(box.row_end - 1);
    const int j0 = frame.j(box.column_begin), j1 = frame.j(box.column_end - 1);
    // What can be kept lies in this part of the box.
    const int last = causal ? least(j1, last_row) : j1, first = most(j0, 0), first_row = most(i0, causal ? first : 0);
    if (first > last || first_row > last_row) return TileState::empty;
    const int line = row_line(frame), before = origin(frame.k_start);
    const TileState state = by_row.classify(frame, size.quotient(first_row) + line, size.quotient(last_row) + line,
                                            size.quotient(first) - before, size.quotient(last) - before);
    const bool whole = i0 >= 0 && j0 >= 0 && (!causal || j1 <= i0);
    return state == TileState::full && !whole ? TileState::partial : state;
  }

  SPLASH_HD bool has_tile_bits(const Frame& frame, int tile) const {
    return tile == size.divisor && frame.k_start == 0;
  }

  SPLASH_HD TileBits tile_bits(const Frame& frame, int row_begin, int row_end, int word) const {
    const int i0 = frame.i(row_begin), last = frame.i(row_end - 1), first = most(i0, 0);
    if (first > last) return {0, 0};
    const int line = row_line(frame);
    TileBits bits = by_row.tile_bits(frame, size.quotient(first) + line, size.quotient(last) + line, word);
    if (i0 < 0) bits.full = 0;
    if (causal) {  // tiles up to the last row's, full ones before the first row's
      bits.kept &= uint32_t(bits_to(size.quotient(last) - 32 * word));
      bits.full &= uint32_t(bits_to(size.quotient(first + 1) - 1 - 32 * word));
    }
    return bits;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int first = most(frame.i(row_begin), 0), last = frame.i(row_end - 1);
    if (first > last) return kEnd;
    const int line = row_line(frame), before = origin(frame.k_start) * size.divisor;
    const int next = by_row.next(frame, size.quotient(first) + line, size.quotient(last) + line, size,
                                 most(frame.j(column), 0) - before);
    return next == kEnd || (causal && next + before > last) ? kEnd : next + before - frame.k_start;
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int first = most(frame.j(column_begin), 0), last = frame.j(column_end - 1);
    if (first > last) return kEnd;
    const int line = column_line(frame), before = origin(frame.q_start) * size.divisor;
    const int next = by_column.next(frame, size.quotient(first) + line, size.quotient(last) + line, size,
                                    most(frame.i(row), causal ? first : 0) - before);
    return next == kEnd ? kEnd : next + before - frame.q_start;
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int i = frame.i(row), j = frame.j(column), from = most(j, 0);
    if (i < 0) return 0;
    const int line = size.quotient(i) + row_line(frame), index = from - origin(frame.k_start) * size.divisor;
    const bool small = size.divisor < BlockSize::kSpread;
    const uint64_t kept =
        small ? by_row.bits_of_small(frame, line, size, index) : by_row.bits(frame, line, size, index);
    const uint64_t bits = shifted_up(kept, from - j);
    return causal ? bits & bits_to(i - j) : bits;
  }

  SPLASH_HD bool keeps_self(const Frame& frame) const {
    const int first = most(frame.q_start, frame.k_start);
    const int end = least(frame.i(frame.num_queries), frame.j(frame.num_keys));
    return first >= end || (first >= 0 && end <= length);
  }

 private:
  /// The block at which the lines and bits of a problem begin, that has its first row or column at `start`.
  SPLASH_HD int origin(int start) const { return size.quotient(most(opaque(start), 0)); }
  /// The line of block 0, were there one.
  SPLASH_HD int row_line(const Frame& frame) const { return size.quotient(frame.first_row) - origin(frame.q_start); }
  SPLASH_HD int column_line(const Frame& frame) const {
    return size.quotient(frame.first_column) - origin(frame.k_start);
  }

  static SPLASH_HD BlockBits lines(const TensorView& view) {
    const bool packed = view.rank == 3;
    const int words = int(view.shape[packed ? 2 : 3]);
    if (!packed) return {PerHead::of(view), 32 * words};
    return {{static_cast<const int32_t*>(view.data), 2 * words, view.shape[0] == 1 ? 0 : view.stride[0]}, 32 * words};
  }

  static bool fits_packed(const TensorView& view, const AttentionInputs& in, int64_t lines, int64_t words) {
    return view.dtype == DType::int32 && view.rank == 3 && (view.shape[0] == 1 || view.shape[0] == in.q.shape[1]) &&
           view.shape[1] == lines && view.shape[2] == words && PerHead::contiguous(view);
  }
  static int64_t longest(int64_t count, const int32_t* ends, int64_t of_sequence) {
    return ends && of_sequence < count ? of_sequence : count;
  }
  /// Blocks of `count` positions from `start` on, and at most of as many wherever they start; positions before 0 count
  /// as 0.
  static int64_t blocks_of(int64_t start, int64_t count, int64_t block) {
    const int64_t first = start < 0 ? 0 : start, last = start + count < 1 ? 0 : start + count - 1;
    return count < 1 ? 0 : last / block - first / block + 1;
  }
  static int64_t most_blocks(int64_t count, int64_t block) { return count < 1 ? 0 : (count + 2 * block - 2) / block; }

  /// Where the first blocks end and the last ones begin.
  static GlobalRows global_ends(const PatternTerm& term, const AttentionInputs& in) {
    const int64_t columns = in.positions.cu_keys ? in.positions.max_keys : in.k.shape[2];
    const int64_t block = most(number(term.ints[0]), 1), end = in.positions.k_start + columns;
    const int64_t length = term.ints[4] < kUnlimited ? term.ints[4] : (end < 0 ? 0 : end);
    const int64_t blocks = (length + block - 1) / block;
    const auto some = [&](int64_t n) { return n < blocks ? n : blocks; };
    return {some(term.ints[2]) * block, (blocks - some(term.ints[3])) * block};
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
