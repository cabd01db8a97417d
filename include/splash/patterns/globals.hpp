// Sets of global positions, for patterns in which some positions see and are seen by all: a prefix, or single bits.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Positions 0, ..., length - 1.
struct GlobalPrefix {
  int length = 0;

  SPLASH_HD bool contains(int position) const { return uint32_t(position) < uint32_t(length); }
  /// Whether all of [first, last] are.
  SPLASH_HD bool all(int first, int last) const { return first >= 0 && last < length; }
  /// The first one from `position` on, kEnd where there is none.
  SPLASH_HD int next(int position) const { return next_within(0, length - 1, position); }
  /// Bit c: contains(position + c).
  SPLASH_HD uint64_t bits(int position) const { return bits_between(-position, length - 1 - position); }
};

/// Bit w of word n is position 32 n + w.
struct GlobalBits {
  const uint32_t* words = nullptr;
  int count = 0;  ///< words

  SPLASH_HD bool contains(int position) const { return word(position >> 5) >> (position & 31) & 1u; }
  SPLASH_HD bool all(int first, int last) const {
    SPLASH_NO_UNROLL
    for (int n = first >> 5; n <= last >> 5; ++n)
      if (~word(n) & word_between(first - 32 * n, last - 32 * n)) return false;
    return true;
  }
  SPLASH_HD int next(int position) const {
    const int from = most(position, 0);
    SPLASH_NO_UNROLL
    for (int n = from >> 5; n < count; ++n)
      if (const uint32_t found = words[n] & word_between(from - 32 * n, 31)) return 32 * n + lowest_bit(found);
    return kEnd;
  }
  SPLASH_HD uint64_t bits(int position) const {
    const int n = position >> 5, shift = position & 31;
    const uint32_t middle = word(n + 1);
    return funnel(word(n), middle, shift) | uint64_t(funnel(middle, word(n + 2), shift)) << 32;
  }

 private:
  SPLASH_HD uint32_t word(int n) const { return uint32_t(n) < uint32_t(count) ? words[n] : 0; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
