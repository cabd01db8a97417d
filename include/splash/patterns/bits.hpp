// Words of bits: of 64 neighbouring scores, and of the 32 bits that tensors hold.
#pragma once

#include "splash/patterns/arithmetic.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Bits first..last of a word; either may lie outside of it, and last may be before first.
SPLASH_HD constexpr uint64_t bits_between(int first, int last) {
  if (last < 0 || first > 63 || last < first) return 0;
  const uint64_t from = first <= 0 ? ~uint64_t(0) : ~uint64_t(0) << first;
  return last >= 63 ? from : from & ~(~uint64_t(0) << (last + 1));
}

/// The same of 32 bits, where [first, last] reaches into the word.
SPLASH_HD constexpr uint32_t word_between(int first, int last) {
  const uint32_t from = first <= 0 ? ~0u : ~0u << first;
  return last >= 31 ? from : from & ~(~0u << (last + 1));
}

/// Runs of `run` bits that start at `first` >= 0, first + step, first + 2 step, ...; run <= step.
SPLASH_HD constexpr uint64_t repeated_bits(int run, int step, int first) {
  if (first > 63) return 0;
  uint64_t bits = bits_between(0, run - 1);
  SPLASH_NO_UNROLL
  for (int done = step; done < 64; done *= 2) bits |= bits << done;
  return bits << first;
}

/// Of a word that is not 0.
SPLASH_HD int lowest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __ffs(int(word)) - 1;
#else
  return __builtin_ctz(word);
#endif
}

}  // namespace patterns
SPLASH_NAMESPACE_END
