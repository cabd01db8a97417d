// ElementMask(mask): mask[b, h, row, column].
#pragma once

#include "splash/patterns/block_bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Tiles of 64 x 64 scores: bits say which keep anything, an index which of them keep all, and a word a row holds the
/// bits of those that keep some.
struct ElementMask {
  static constexpr int kTile = 64;
  static constexpr int kFull = -2;  ///< entry of the index; -1 (and anything below -2) keeps nothing

  BlockBits by_row, by_column;
  PerHead index;                    ///< (B|1, Hq|1, tile rows, tile columns)
  const uint32_t* words = nullptr;  ///< (partial tiles, 64, 2): bit w of word n of row r is column 32 n + w
  int partial_tiles = 0;

  /// tensors: by_row, by_column, index, words, all int32.
  static SPLASH_HD ElementMask from(const PatternTerm& term) {
    return {BlockBits::of(term.tensors[0], term.tensors[1]), BlockBits::of(term.tensors[1], term.tensors[0]),
            PerHead::of(term.tensors[2]), static_cast<const uint32_t*>(term.tensors[3].data),
            int(term.tensors[3].shape[0])};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    if (in.positions.cu_queries) return "its elements are rows and columns, which packed sequences do not have";
    const int64_t tiles[] = {(in.q.shape[2] + kTile - 1) / kTile, (in.k.shape[2] + kTile - 1) / kTile};
    for (int n = 0; n < 2; ++n)
      if (!PerHead::fits(term.tensors[n], in, {tiles[n], (tiles[1 - n] + 31) / 32}))
        return "by_row must be contiguous int32 (B|1, Hq|1, tile rows, ceil(tile columns / 32)), by_column the same of "
               "the transposed mask";
    if (!PerHead::fits(term.tensors[2], in, {tiles[0], tiles[1]}))
      return "index must be contiguous int32 (B|1, Hq|1, tile rows, tile columns)";
    const TensorView& words = term.tensors[3];
    if (words.dtype != DType::int32 || words.rank != 3 || words.shape[0] > kUnlimited || words.shape[1] != kTile ||
        words.shape[2] != 2 || !PerHead::contiguous(words))
      return "words must be contiguous int32 (partial tiles, 64, 2)";
    return nullptr;
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int tile = entry(frame, row, tile_of(column));
    if (!is_partial(tile)) return tile == kFull;
    return row_of(tile, row)[column >> 5 & 1] >> (column & 31) & 1u;
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    bool any = false, all = true;
    const int first = tile_of(box.column_begin), last = tile_of(box.column_end - 1);
    const int32_t* entries = line_of(frame, tile_of(box.row_begin));
    SPLASH_NO_UNROLL
    for (int n = tile_of(box.row_begin); n <= tile_of(box.row_end - 1); ++n, entries += by_row.blocks) {
      SPLASH_NO_UNROLL
      for (int m = first; m <= last; ++m) {
        any |= entries[m] == kFull || is_partial(entries[m]);
        all &= entries[m] == kFull;
      }
    }
    return all ? TileState::full : (any ? TileState::partial : TileState::empty);
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return begin_of(by_row.next(frame, tile_of(row_begin), tile_of(row_end - 1), tile_of(column)), column);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return begin_of(by_column.next(frame, tile_of(column_begin), tile_of(column_end - 1), tile_of(row)), row);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int n = tile_of(column), shift = column & (kTile - 1);
    const uint64_t kept = tile_bits(frame, row, n) >> shift;
    return shift && n + 1 < by_row.blocks ? kept | tile_bits(frame, row, n + 1) << (kTile - shift) : kept;
  }

 private:
  static SPLASH_HD int tile_of(int index) { return int(uint32_t(index) / uint32_t(kTile)); }
  /// The first index from `from` on in a tile that is not before it.
  static SPLASH_HD int begin_of(int tile, int from) { return tile == kEnd ? kEnd : most(tile * kTile, from); }

  /// The index of a row of tiles.
  SPLASH_HD const int32_t* line_of(const Frame& frame, int tile_row) const {
    return index.at(frame) + int64_t(tile_row) * by_row.blocks;
  }
  SPLASH_HD int entry(const Frame& frame, int row, int tile) const { return line_of(frame, tile_of(row))[tile]; }
  SPLASH_HD bool is_partial(int entry) const { return uint32_t(entry) < uint32_t(partial_tiles); }
  SPLASH_HD const uint32_t* row_of(int tile, int row) const {
    return words + 2 * (int64_t(tile) * kTile + (row & (kTile - 1)));
  }
  SPLASH_HD uint64_t tile_bits(const Frame& frame, int row, int n) const {
    const int tile = entry(frame, row, n);
    if (!is_partial(tile)) return tile == kFull ? ~uint64_t(0) : 0;
    return row_of(tile, row)[0] | uint64_t(row_of(tile, row)[1]) << 32;
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
