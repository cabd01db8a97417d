// Elementwise functions on a `Value`: float or double here, a SIMD vector in cpu/simd.hpp. Normalizers use these names
// only, so that the same rule runs on a GPU thread's registers and on vectors of queries.
#pragma once

#include <math.h>

#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace math {

inline constexpr double kLog2E = 1.4426950408889634;
inline constexpr double kLn2 = 0.6931471805599453;

/// The scalar behind a Value, for constants and thresholds.
template <class Value>
struct ScalarOf {
  using type = Value;
};
/// A class that stands for several numbers: it brings its own max, relu, select, any, ... as static members.
template <class V>
concept ClassValue = requires {
  typename V::Scalar;
  typename V::Mask;
};
template <ClassValue V>
struct ScalarOf<V> {
  using type = typename V::Scalar;
};
template <class Value>
using Scalar = typename ScalarOf<Value>::type;

template <class Real>
inline constexpr Real kInfinity = Real(__builtin_huge_val());

/// Smallest relative step of the type.
template <class Real>
inline constexpr Real kEpsilon = sizeof(Real) == 4 ? Real(1.1920929e-7) : Real(2.220446049250313e-16);

// max() may drop a NaN; relu() never does, so a NaN score reaches the weights.
SPLASH_HD float max(float a, float b) { return ::fmaxf(a, b); }
SPLASH_HD double max(double a, double b) { return ::fmax(a, b); }
SPLASH_HD float relu(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
  return y;
#else
  return x <= 0.0f ? 0.0f : x;
#endif
}
SPLASH_HD double relu(double x) { return x <= 0.0 ? 0.0 : x; }
SPLASH_HD float select(bool condition, float a, float b) { return condition ? a : b; }
SPLASH_HD double select(bool condition, double a, double b) { return condition ? a : b; }
SPLASH_HD bool any(bool condition) { return condition; }
SPLASH_HD float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
SPLASH_HD double fma(double a, double b, double c) { return ::fma(a, b, c); }
SPLASH_HD float sqrt(float x) { return ::sqrtf(x); }
SPLASH_HD double sqrt(double x) { return ::sqrt(x); }
SPLASH_HD float log(float x) { return ::logf(x); }
SPLASH_HD double log(double x) { return ::log(x); }
SPLASH_HD double exp2(double x) { return ::exp2(x); }
SPLASH_HD double log2(double x) { return ::log2(x); }

SPLASH_HD float exp2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::exp2f(x);
#endif
}

SPLASH_HD float log2(float x) { return ::log2f(x); }

/// Halfway between two numbers in the order of all floating-point numbers, rounded down: repeated bisection of an
/// interval by it ends after as many steps as the type has bits. Neither may be NaN.
SPLASH_HD float between(float low, float high) {
  const auto order = [](int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); };  // its own inverse
  const int32_t a = order(__builtin_bit_cast(int32_t, low)), b = order(__builtin_bit_cast(int32_t, high));
  return __builtin_bit_cast(float, order((a & b) + ((a ^ b) >> 1)));
}
SPLASH_HD double between(double low, double high) {
  const auto order = [](int64_t bits) { return bits ^ (bits >> 63 & 0x7fffffffffffffff); };
  const int64_t a = order(__builtin_bit_cast(int64_t, low)), b = order(__builtin_bit_cast(int64_t, high));
  return __builtin_bit_cast(double, order((a & b) + ((a ^ b) >> 1)));
}

template <ClassValue V>
SPLASH_HD V max(V a, V b) {
  return V::max(a, b);
}
template <ClassValue V>
SPLASH_HD V relu(V x) {
  return V::relu(x);
}
template <ClassValue V>
SPLASH_HD V select(typename V::Mask condition, V a, V b) {
  return V::select(condition, a, b);
}
template <class Mask>
SPLASH_HD auto any(Mask mask) -> decltype(mask.any()) {
  return mask.any();
}
template <ClassValue V>
SPLASH_HD V fma(V a, V b, V c) {
  return V::fma(a, b, c);
}
template <ClassValue V>
SPLASH_HD V sqrt(V x) {
  return V::sqrt(x);
}
template <ClassValue V>
SPLASH_HD V log(V x) {
  return V::log(x);
}
template <ClassValue V>
SPLASH_HD V exp2(V x) {
  return V::exp2(x);
}
template <ClassValue V>
SPLASH_HD V log2(V x) {
  return V::log2(x);
}
template <ClassValue V>
SPLASH_HD V between(V low, V high) {
  return V::between(low, high);
}

/// A scale of any sign as sign * magnitude with magnitude > 0: raw scores are multiplied by the sign (1, -1 or 0) where
/// it is not 1, and masked scores may stay -inf.
struct SignedScale {
  double sign, magnitude;
};
SPLASH_HD SignedScale split_scale(double scale) {
  return scale > 0 ? SignedScale{1.0, scale} : (scale < 0 ? SignedScale{-1.0, -scale} : SignedScale{0.0, 1.0});
}

/// x^y for x >= 0, y >= 0; 0 at x = 0 (also for y = 0), NaN at NaN.
template <class Value>
SPLASH_HD Value power(Value x, Scalar<Value> y) {
  return select(x == Value(0), Value(0), exp2(log2(x) * Value(y)));
}

}  // namespace math
SPLASH_NAMESPACE_END
