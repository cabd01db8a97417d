// The only transposition: the key-major view of a pattern, for the backward.
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

}  // namespace patterns
SPLASH_NAMESPACE_END
