// Causal(): j <= i.
#pragma once

#include "splash/patterns/sliding_window.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

struct Causal {
  static constexpr bool kSimple = true;
  static SPLASH_HD Causal from(const PatternTerm&) { return {}; }
  SPLASH_HD bool keep(const Frame& frame, int row, int column) const { return frame.j(column) <= frame.i(row); }
  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const { return band().classify(frame, box); }
  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return band().next_column(frame, row_begin, row_end, column);
  }
  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return band().next_row(frame, column_begin, column_end, row);
  }
  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    return band().kept_bits(frame, row, column);
  }
  SPLASH_HD bool keeps_self(const Frame&) const { return true; }
  SPLASH_HD SlidingWindow band() const { return {kUnlimited, 0}; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
