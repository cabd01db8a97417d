// Masks from compressed sparse rows: dense, and in tiles. Entries outside of the matrix and of the offsets do not
// exist.
#pragma once

#include "splash/patterns/tables/pack.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns::tables {

/// Row r has the entries [offsets[r], offsets[r + 1]) of its matrix.
struct SparseRows {
  const int64_t* offsets;  ///< (matrices, rows + 1), not falling
  const int64_t* columns;  ///< (matrices, entries)
  int64_t matrices, entries, rows, width;

  SPLASH_HD int64_t offset(int64_t matrix, int64_t row) const {
    const int64_t at = offsets[matrix * (rows + 1) + row];
    return at < 0 ? 0 : at < entries ? at : entries;
  }

  /// body(column) for the columns that a row keeps, some of them more than once.
  template <class Body>
  SPLASH_HD void for_columns(int64_t matrix, int64_t row, const Body& body) const {
    const int64_t* own = columns + matrix * entries;
    for (int64_t n = offset(matrix, row), end = offset(matrix, row + 1); n < end; ++n)
      if (own[n] >= 0 && own[n] < width) body(own[n]);
  }
};

struct DenseRows {
  SparseRows sparse;
  uint8_t* mask;  ///< (matrices, rows, width), zeros before

  SPLASH_HD int64_t count() const { return sparse.matrices * sparse.rows; }

  SPLASH_HD void operator()(int64_t n) const {
    uint8_t* row = mask + n * sparse.width;
    sparse.for_columns(n / sparse.rows, n % sparse.rows, [&](int64_t column) { row[column] = 1; });
  }
};

/// A row of tiles at a time. Tiles get the numbers of their first entries where there are fewer entries than tiles
/// (`by_entry`), else those of their places, so that rows of tiles know nothing of each other.
struct TileRows {
  SparseRows sparse;
  bool by_entry;
  int32_t* index;   ///< (matrices, tile rows, tile columns)
  uint32_t* words;  ///< (numbers, 64, 2), zeros before

  SPLASH_HD int64_t count() const { return sparse.matrices * tiles_of(sparse.rows); }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t matrix = n / tiles_of(sparse.rows), first = n % tiles_of(sparse.rows) * kTile;
    const int64_t wide = tiles_of(sparse.width), end = first + kTile < sparse.rows ? first + kTile : sparse.rows;
    int32_t* own = index + n * wide;
    for (int64_t tile = 0; tile < wide; ++tile) own[tile] = kEmptyTile;
    int64_t next = matrix * sparse.entries + sparse.offset(matrix, first);
    for (int64_t row = first; row < end; ++row)
      sparse.for_columns(matrix, row, [&](int64_t column) {
        const int64_t tile = column / kTile, bit = column % kTile;
        if (own[tile] == kEmptyTile) own[tile] = int32_t(by_entry ? next++ : n * wide + tile);
        words[int64_t(own[tile]) * kTileWords + (row - first) * 2 + bit / 32] |= 1u << bit % 32;
      });
    for (int64_t tile = 0; tile < wide; ++tile)
      if (own[tile] != kEmptyTile && state_of_tile(words + int64_t(own[tile]) * kTileWords, sparse.rows, sparse.width,
                                                   first, tile * kTile) == TileState::full)
        own[tile] = kFullTile;
  }
};

}  // namespace patterns::tables
SPLASH_NAMESPACE_END
