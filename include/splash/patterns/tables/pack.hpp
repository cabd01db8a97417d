// Masks as the kernels read them: bits, 32 a word, and tiles of 64 x 64 bits. Each struct is the work of an operator,
// an item at a time, on any device: work(n) for n in [0, count()).
#pragma once

#include "splash/patterns/element_mask.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns::tables {

inline constexpr int kTile = 64;  ///< rows and columns of a tile
inline constexpr int kTileWords = kTile * kTile / 32;
inline constexpr int32_t kEmptyTile = -1, kFullTile = -2;

SPLASH_HD constexpr int64_t words_of(int64_t bits) { return (bits + 31) / 32; }
SPLASH_HD constexpr int64_t tiles_of(int64_t size) { return (size + kTile - 1) / kTile; }

/// What a score's entry of a grid says: bool, or the number of a tile that is not empty.
struct KeptScores {
  const uint8_t* data;
  SPLASH_HD bool operator()(int64_t at) const { return data[at] != 0; }
};
struct KeptTiles {
  const int32_t* data;
  SPLASH_HD bool operator()(int64_t at) const { return data[at] != kEmptyTile; }
};

/// (batches, heads, lines, bits) entries to (batches, heads, lines, words) words; strides count entries, 0 where the
/// grid repeats itself. `across`: neighbouring items are neighbouring lines, for grids that lie so.
template <class Kept>
struct PackBits {
  Kept kept;
  int64_t stride[4];
  int64_t batches, heads, lines, bits;
  uint32_t* words;
  bool across;

  SPLASH_HD int64_t count() const { return batches * heads * lines * words_of(bits); }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t of_line = words_of(bits), of_matrix = lines * of_line, matrix = n / of_matrix, rest = n % of_matrix;
    const int64_t line = across ? rest % lines : rest / of_line, word = across ? rest / lines : rest % of_line;
    const int64_t begin = matrix / heads * stride[0] + matrix % heads * stride[1] + line * stride[2];
    const int64_t left = bits - 32 * word;
    uint32_t packed = 0;
    for (int bit = 0; bit < 32 && bit < left; ++bit)
      packed |= uint32_t(kept(begin + (32 * word + bit) * stride[3])) << bit;
    words[matrix * of_matrix + line * of_line + word] = packed;
  }
};

/// The bits of every tile of a bool mask (batches, heads, rows, columns), those past its ends 0.
struct PackTiles {
  KeptScores kept;
  int64_t stride[4];
  int64_t batches, heads, rows, columns;
  uint32_t* words;  ///< (batches, heads, tile rows, tile columns, 64, 2)

  SPLASH_HD int64_t count() const { return batches * heads * tiles_of(rows) * tiles_of(columns) * kTileWords; }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t tile = n / kTileWords, wide = tiles_of(columns), of_matrix = tiles_of(rows) * wide;
    const int64_t matrix = tile / of_matrix, row = tile % of_matrix / wide * kTile + n % kTileWords / 2;
    const int64_t column = tile % wide * kTile + n % 2 * 32, left = row < rows ? columns - column : 0;
    const int64_t begin = matrix / heads * stride[0] + matrix % heads * stride[1] + row * stride[2];
    uint32_t packed = 0;
    for (int bit = 0; bit < 32 && bit < left; ++bit)
      packed |= uint32_t(kept(begin + (column + bit) * stride[3])) << bit;
    words[n] = packed;
  }
};

/// Whether the words of one tile, at `row` and `column` of rows x columns scores, keep nothing, all, or neither.
SPLASH_HD TileState state_of_tile(const uint32_t* words, int64_t rows, int64_t columns, int64_t row, int64_t column) {
  uint32_t any = 0;
  bool all = true;
  for (int n = 0; n < kTileWords; ++n) {
    const int64_t left = row + n / 2 < rows ? columns - column - n % 2 * 32 : 0;
    const uint32_t whole = left >= 32 ? ~0u : left > 0 ? ~(~0u << left) : 0;
    any |= words[n];
    all = all && words[n] == whole;
  }
  return any == 0 ? TileState::empty : all ? TileState::full : TileState::partial;
}

/// The index of PackTiles: each tile that is neither empty nor full has its own number.
struct IndexTiles {
  const uint32_t* words;
  int64_t matrices, rows, columns;
  int32_t* index;

  SPLASH_HD int64_t count() const { return matrices * tiles_of(rows) * tiles_of(columns); }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t wide = tiles_of(columns), tile = n % (tiles_of(rows) * wide);
    const TileState state =
        state_of_tile(words + n * kTileWords, rows, columns, tile / wide * kTile, tile % wide * kTile);
    index[n] = state == TileState::empty ? kEmptyTile : state == TileState::full ? kFullTile : int32_t(n);
  }
};

/// Least and largest of every `group` neighbouring indices: (lines, length) to (lines, groups, 2).
struct IndexRanges {
  const int32_t* indices;
  int64_t lines, length;
  int group;
  int32_t* ranges;

  SPLASH_HD int64_t groups() const { return (length + group - 1) / group; }
  SPLASH_HD int64_t count() const { return lines * groups(); }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t begin = n % groups() * group, end = begin + group < length ? begin + group : length;
    const int32_t* line = indices + n / groups() * length;
    int32_t low = line[begin], high = low;
    for (int64_t i = begin + 1; i < end; ++i) {
      low = least(low, line[i]);
      high = most(high, line[i]);
    }
    ranges[2 * n] = low;
    ranges[2 * n + 1] = high;
  }
};

}  // namespace patterns::tables
SPLASH_NAMESPACE_END
