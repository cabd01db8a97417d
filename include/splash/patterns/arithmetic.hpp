// Integers that the patterns share: division, and ranges of positions.
#pragma once

#include "splash/core/frame.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// A number of a term as an int from 0 to kUnlimited. Positions stay below kUnlimited / 2, so more is never needed.
SPLASH_HD constexpr int number(int64_t value) { return value < 0 ? 0 : (value > kUnlimited ? kUnlimited : int(value)); }

SPLASH_HD constexpr int least(int a, int b) { return a < b ? a : b; }
SPLASH_HD constexpr int most(int a, int b) { return a < b ? b : a; }

/// A divisor, from 1 to kUnlimited, known before what it divides: a product and a shift divide by it. Plain data.
/// With 2^s <= d < 2^(s + 1) and m = floor((2^(32 + s) - 1) / d), the rest 2^(32 + s) - m d is from 1 to d. So (x + 1)
/// m / 2^(32 + s) is (x + 1 - t) / d with 0 < t < 1 for all x < 2^31, and rounds down to floor(x / d).
struct FastDivide {
  int divisor;
  int shift = 0;  ///< s
  uint32_t multiplier;

  SPLASH_HD constexpr FastDivide(int d) : divisor(d), multiplier(0) {
#if defined(__CUDA_ARCH__)
    if (!__builtin_is_constant_evaluated()) {
      shift = 31 - __clz(d);
      multiplier = divided(dividend(), uint32_t(d));
      return;
    }
#endif
    while (d >> shift > 1) ++shift;
    multiplier = uint32_t(dividend() / uint32_t(d));
  }

  /// value / divisor of a value that is not negative.
  SPLASH_HD constexpr int quotient(int value) const {
    return int(uint32_t((uint64_t(uint32_t(value)) * multiplier + multiplier) >> 32) >> shift);
  }

 private:
  SPLASH_HD constexpr uint64_t dividend() const { return (uint64_t(1) << (32 + shift)) - 1; }

#if defined(__CUDACC__)
  /// GPUs have no 64-bit division: of what is left, a float product takes off almost all, twice, and never too much.
  static __device__ __forceinline__ uint32_t divided(uint64_t left, uint32_t by) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(__uint2float_ru(by)));
    inverse *= 1.0f - 0x1p-21f;
    uint32_t quotient = 0;
    SPLASH_UNROLL
    for (int n = 0; n < 2; ++n) {
      const uint32_t part = __float2uint_rz(__fmul_rz(__ull2float_rz(left), inverse));
      quotient += part;
      left -= uint64_t(part) * by;
    }
    return left < by ? quotient : quotient + 1;
  }
#endif
};

/// Rounds towards minus infinity.
SPLASH_HD constexpr int floor_div(int value, const FastDivide& by) {
  const int sign = value >> 31;  // -1 for negative values: floor(x / d) = ~floor(~x / d) there
  return by.quotient(value ^ sign) ^ sign;
}

/// The largest multiple of the divisor that is not above a distance or a position.
SPLASH_HD constexpr int round_down(int value, const FastDivide& to) { return floor_div(value, to) * to.divisor; }

/// In [0, divisor).
SPLASH_HD constexpr int floor_mod(int value, const FastDivide& by) { return value - round_down(value, by); }

/// The first number of [first, last] from `from` on; kEnd where there is none.
SPLASH_HD constexpr int next_within(int first, int last, int from) {
  const int candidate = most(first, from);
  return candidate > last ? kEnd : candidate;
}

/// A position as a row or column that starts at `start`; kEnd stays kEnd.
SPLASH_HD constexpr int index_of(int position, int start) { return position == kEnd ? kEnd : position - start; }

/// A number of which the compiler forgets where it came from. What a list of patterns forms of rows and columns would
/// otherwise move out of the loops over tiles, all of it at once, and take a GPU thread's registers for good.
SPLASH_HD int opaque(int value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

}  // namespace patterns
SPLASH_NAMESPACE_END
