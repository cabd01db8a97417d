// BlockMask(mask, block): mask[b, h, row // block_rows, column // block_columns], in rows and columns of these tensors.
#pragma once

#include "splash/patterns/block_bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// The mask as bits, once by rows and once by columns, so that both traversals step with a bit scan.
/// Two int32 tensors: by_row (B|1, H|1, block rows, words) and by_column (B|1, H|1, block columns, words); bit w of
/// word n stands for block 32 n + w of the other axis.
struct BlockMask {
  static constexpr bool kBlockLists = true;  ///< tiles as large as its blocks are whole
  BlockBits by_row, by_column;
  FastDivide block_rows = 64;
  BlockSize block_columns = 64;

  /// ints: block_rows, block_columns. tensors: by_row, by_column.
  static SPLASH_HD BlockMask from(const PatternTerm& term) {
    return {BlockBits::of(term.tensors[0], term.tensors[1]), BlockBits::of(term.tensors[1], term.tensors[0]),
            int(term.ints[0]), int(term.ints[1])};
  }

  /// Granularity along the keys, for the choice of an instance: blocks of several tiles have whole ones, too.
  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    const int columns = int(term.ints[1]);
    return columns % (2 * widths.narrow) == 0 ? 2 * widths.narrow
                                              : (columns % widths.narrow == 0 ? widths.narrow : columns);
  }

  /// Why the term does not describe these inputs, or nullptr. What passes here is never read out of bounds.
  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    if (in.positions.cu_queries)
      return "its blocks are counted in rows and columns, which packed sequences do not have";
    const int64_t extent[] = {in.q.shape[2], in.k.shape[2]};
    int64_t blocks[2];
    for (int n = 0; n < 2; ++n) {
      if (term.ints[n] < 16 || term.ints[n] % 16 || term.ints[n] > kUnlimited)
        return "block sizes must be positive multiples of 16";
      blocks[n] = (extent[n] + term.ints[n] - 1) / term.ints[n];
    }
    for (int n = 0; n < 2; ++n)
      if (!PerHead::fits(term.tensors[n], in, {blocks[n], (blocks[1 - n] + 31) / 32}))
        return "by_row must be contiguous int32 (B|1, Hq|1, block rows, ceil(block columns / 32)), by_column the same "
               "of the transposed mask";
    return nullptr;
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    return by_row.keep(frame, block_rows.quotient(row), block_columns.quotient(column));
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    return by_row.classify(frame, block_rows.quotient(box.row_begin), block_rows.quotient(box.row_end - 1),
                           block_columns.quotient(box.column_begin), block_columns.quotient(box.column_end - 1));
  }

  SPLASH_HD bool has_tile_bits(const Frame&, int tile) const { return tile == block_columns.divisor; }

  SPLASH_HD TileBits tile_bits(const Frame& frame, int row_begin, int row_end, int word) const {
    return by_row.tile_bits(frame, block_rows.quotient(row_begin), block_rows.quotient(row_end - 1), word);
  }

  SPLASH_HD bool has_row_tile_bits(const Frame&, int tile) const { return tile == block_rows.divisor; }

  SPLASH_HD TileBits row_tile_bits(const Frame& frame, int column_begin, int column_end, int word) const {
    return by_column.tile_bits(frame, block_columns.quotient(column_begin), block_columns.quotient(column_end - 1),
                               word);
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int first = block_rows.quotient(row_begin), last = block_rows.quotient(row_end - 1);
    return by_row.next(frame, first, last, block_columns, column);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int first = block_columns.quotient(column_begin), last = block_columns.quotient(column_end - 1);
    return by_column.next(frame, first, last, block_rows, row);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    return by_row.bits(frame, block_rows.quotient(row), block_columns, column);
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
