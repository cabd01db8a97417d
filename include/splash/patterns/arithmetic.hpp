// Integers that the patterns share: floor division, ranges of positions, and 64 neighbouring scores as bits.
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

/// Bits first..last of a word; either may lie outside of it, and last may be before first.
SPLASH_HD constexpr uint64_t bits_between(int first, int last) {
  if (last < 0 || first > 63 || last < first) return 0;
  const uint64_t from = first <= 0 ? ~uint64_t(0) : ~uint64_t(0) << first;
  return last >= 63 ? from : from & ~(~uint64_t(0) << (last + 1));
}

/// Runs of `run` bits that start at `first` >= 0, first + step, first + 2 step, ...; run <= step.
SPLASH_HD constexpr uint64_t repeated_bits(int run, int step, int first) {
  if (first > 63) return 0;
  uint64_t bits = bits_between(0, run - 1);
  SPLASH_NO_UNROLL
  for (int done = step; done < 64; done *= 2) bits |= bits << done;
  return bits << first;
}

}  // namespace patterns
SPLASH_NAMESPACE_END
