// A pattern that splash does not have: every `period`-th key, and nothing after the query.
#pragma once

#include "splash/patterns/concept.hpp"

struct Stripes {
  int period;

  SPLASH_HD bool keep(const splash::Frame& frame, int row, int column) const {
    return frame.j(column) <= frame.i(row) && column % period == 0;
  }
  SPLASH_HD splash::TileState classify(const splash::Frame& frame, const splash::Box& box) const {
    const bool behind = frame.j(box.column_begin) > frame.i(box.row_end - 1);
    return behind ? splash::TileState::empty : splash::TileState::partial;
  }
  SPLASH_HD int next_column(const splash::Frame&, int, int, int column) const {
    return (column + period - 1) / period * period;
  }
  SPLASH_HD int next_row(const splash::Frame& frame, int column_begin, int, int row) const {
    const int first = frame.j(column_begin) - frame.q_start;
    return row < first ? first : row;
  }
};

static_assert(splash::patterns::Pattern<Stripes>);
