// Words of bits: of 64 neighbouring scores, and of the 32 bits that tensors hold.
#pragma once

#include "splash/patterns/arithmetic.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// From 64 on nothing is left, as the instructions of a GPU have it; count >= 0.
SPLASH_HD constexpr uint64_t shifted_up(uint64_t bits, int count) {
#if defined(__CUDA_ARCH__)
  if (!__builtin_is_constant_evaluated()) {
    uint64_t shifted;
    asm("shl.b64 %0, %1, %2;" : "=l"(shifted) : "l"(bits), "r"(count));
    return shifted;
  }
#endif
  return count > 63 ? 0 : bits << count;
}

/// Bits `first` and later; `first` may lie outside of the word.
SPLASH_HD constexpr uint64_t bits_from(int first) { return shifted_up(~uint64_t(0), most(first, 0)); }
/// Bits up to `last`, which may lie outside of the word.
SPLASH_HD constexpr uint64_t bits_to(int last) { return ~bits_from(last + 1); }
/// Bits first..last of a word; either may lie outside of it, and last may be before first.
SPLASH_HD constexpr uint64_t bits_between(int first, int last) { return bits_from(first) & bits_to(last); }

/// The same of 32 bits, where [first, last] reaches into the word.
SPLASH_HD constexpr uint32_t word_between(int first, int last) {
  return ~0u << most(first, 0) & ~0u >> most(31 - last, 0);
}

/// 32 bits of 64, the lowest of which is bit `shift` < 32 of `low`.
SPLASH_HD uint32_t funnel(uint32_t low, uint32_t high, int shift) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_r(low, high, uint32_t(shift));
#else
  return uint32_t((uint64_t(high) << 32 | low) >> shift);
#endif
}

/// Runs of `run` bits that start at 0, step, 2 step, ...; run <= step.
SPLASH_HD constexpr uint64_t repeated_bits(int run, int step) {
  uint64_t bits = bits_to(run - 1);
  SPLASH_NO_UNROLL
  for (int done = step; done < 64; done *= 2) bits |= bits << done;
  return bits;
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
