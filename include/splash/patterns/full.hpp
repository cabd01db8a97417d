// Full(): every score.
#pragma once

#include "splash/patterns/sliding_window.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

struct Full {
  static constexpr bool kSimple = true;
  static SPLASH_HD Full from(const PatternTerm&) { return {}; }
  SPLASH_HD bool keep(const Frame&, int, int) const { return true; }
  SPLASH_HD TileState classify(const Frame&, const Box&) const { return TileState::full; }
  SPLASH_HD int next_column(const Frame&, int, int, int column) const { return column; }
  SPLASH_HD int next_row(const Frame&, int, int, int row) const { return row; }
  SPLASH_HD uint64_t kept_bits(const Frame&, int, int) const { return ~uint64_t(0); }
  SPLASH_HD bool keeps_self(const Frame&) const { return true; }
  SPLASH_HD SlidingWindow band() const { return {}; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
