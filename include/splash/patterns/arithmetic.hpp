// Integers that the patterns share: floor division, and ranges of positions.
#pragma once

#include "splash/core/frame.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// A number of a term as an int from 0 to kUnlimited. Positions stay below kUnlimited / 2, so more is never needed.
SPLASH_HD constexpr int number(int64_t value) { return value < 0 ? 0 : (value > kUnlimited ? kUnlimited : int(value)); }

/// Rounds towards minus infinity; divisor > 0.
SPLASH_HD constexpr int floor_div(int value, int divisor) {
  const int sign = value >> 31;  // -1 for negative values: floor(x / d) = ~(~x / d) there
  return int(unsigned(value ^ sign) / unsigned(divisor)) ^ sign;
}

/// In [0, divisor).
SPLASH_HD constexpr int floor_mod(int value, int divisor) { return value - floor_div(value, divisor) * divisor; }

SPLASH_HD constexpr int least(int a, int b) { return a < b ? a : b; }
SPLASH_HD constexpr int most(int a, int b) { return a < b ? b : a; }

/// The first number of [first, last] from `from` on; kEnd where there is none.
SPLASH_HD constexpr int next_within(int first, int last, int from) {
  const int candidate = most(first, from);
  return candidate > last ? kEnd : candidate;
}

/// A position as a row or column that starts at `start`; kEnd stays kEnd.
SPLASH_HD constexpr int index_of(int position, int start) { return position == kEnd ? kEnd : position - start; }

}  // namespace patterns
SPLASH_NAMESPACE_END
