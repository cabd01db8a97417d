// The only transposition: the key-major views of a pattern, for the backward.
#pragma once

#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Rows of the view are columns of the pattern. Frames and boxes stay those of the original problem where they
/// describe it; only the arguments change places. Transposed<Transposed<P>> answers as P does.
template <Pattern P>
struct Transposed {
  P pattern;

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const { return pattern.keep(frame, column, row); }
  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    return pattern.classify(frame, {box.column_begin, box.column_end, box.row_begin, box.row_end});
  }
  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return pattern.next_row(frame, row_begin, row_end, column);
  }
  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return pattern.next_column(frame, column_begin, column_end, row);
  }
};

/// The same with a frame whose rows and columns have changed places, too, for the query head `member` places after the
/// frame's: what a kernel sees that knows rows and columns only.
template <Pattern P>
struct KeyMajor {
  const P& pattern;
  int member = 0;

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const { return pattern.keep(own(frame), column, row); }
  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    return pattern.classify(own(frame), {box.column_begin, box.column_end, box.row_begin, box.row_end});
  }
  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return pattern.next_row(own(frame), row_begin, row_end, column);
  }
  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return pattern.next_column(own(frame), column_begin, column_end, row);
  }
  /// Bit c is keep(frame, column, row + c): the pattern's own words lie along its keys.
  SPLASH_HD uint64_t kept_rows(const Frame& frame, int row, int column) const {
    return kept_bits(pattern, own(frame), column, row);
  }
  SPLASH_HD bool has_tile_bits(const Frame& frame, int tile) const
    requires RowTileBitsPattern<P>
  {
    return pattern.has_row_tile_bits(own(frame), tile);
  }
  SPLASH_HD TileBits tile_bits(const Frame& frame, int row_begin, int row_end, int word) const
    requires RowTileBitsPattern<P>
  {
    return pattern.row_tile_bits(own(frame), row_begin, row_end, word);
  }
  SPLASH_HD bool keeps_self(const Frame& frame) const { return patterns::keeps_self(pattern, own(frame)); }

 private:
  SPLASH_HD Frame own(const Frame& frame) const {
    Frame original = transposed(frame);
    original.head += member;
    return original;
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
