// Vectors of Real on the host, by the vector extensions of GCC and Clang, at the widest size of the translation unit's
// instruction set; with the members that core/math.hpp asks of a class Value.
#pragma once

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "splash/core/half.hpp"
#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class Real>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef float unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t integer __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t natural __attribute__((vector_size(kVectorBytes)));
  using Index = uint32_t;
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef double unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t integer __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t natural __attribute__((vector_size(kVectorBytes)));
  using Index = uint64_t;
};

/// kLanes numbers of type Real.
template <class Real>
struct Simd {
  using Scalar = Real;
  using Vector = typename VectorOf<Real>::type;
  using Integer = typename VectorOf<Real>::integer;
  static constexpr int kLanes = kVectorBytes / int(sizeof(Real));

  struct Mask {
    Integer lanes;  ///< all bits of a lane set, or none
    SPLASH_HD bool any() const {
#if defined(__AVX512F__)
      if constexpr (sizeof(Real) == 4) return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes) != 0;
#endif
      Integer bits = lanes;
      auto all = bits[0];
      for (int l = 1; l < kLanes; ++l) all |= bits[l];
      return all != 0;
    }
  };

  Vector lanes;

  Simd() = default;
  explicit SPLASH_HD Simd(Real x) : lanes(broadcast(x)) {}
  explicit SPLASH_HD Simd(Vector v) : lanes(v) {}

  static SPLASH_HD Simd load(const Real* p) {
    return Simd(Vector(*reinterpret_cast<const typename VectorOf<Real>::unaligned*>(p)));
  }
  SPLASH_HD void store(Real* p) const { *reinterpret_cast<typename VectorOf<Real>::unaligned*>(p) = lanes; }

  static SPLASH_HD Vector broadcast(Real x) {
    if constexpr (kLanes == 2) return Vector{x, x};
    if constexpr (kLanes == 4) return Vector{x, x, x, x};
    if constexpr (kLanes == 8) return Vector{x, x, x, x, x, x, x, x};
    if constexpr (kLanes == 16) return Vector{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
  }

  friend SPLASH_HD Simd operator+(Simd a, Simd b) { return Simd(a.lanes + b.lanes); }
  friend SPLASH_HD Simd operator-(Simd a, Simd b) { return Simd(a.lanes - b.lanes); }
  friend SPLASH_HD Simd operator*(Simd a, Simd b) { return Simd(a.lanes * b.lanes); }
  friend SPLASH_HD Simd operator/(Simd a, Simd b) { return Simd(a.lanes / b.lanes); }
  friend SPLASH_HD Simd operator-(Simd a) { return Simd(-a.lanes); }
  friend SPLASH_HD Mask operator==(Simd a, Simd b) { return {Integer(a.lanes == b.lanes)}; }
  friend SPLASH_HD Mask operator<(Simd a, Simd b) { return {Integer(a.lanes < b.lanes)}; }
  friend SPLASH_HD Mask operator>(Simd a, Simd b) { return {Integer(a.lanes > b.lanes)}; }

  static SPLASH_HD Simd select(Mask condition, Simd a, Simd b) { return Simd(condition.lanes ? a.lanes : b.lanes); }
  /// b where either is NaN.
  static SPLASH_HD Simd max(Simd a, Simd b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4) return Simd(Vector(_mm512_maskz_max_ps(0xffff, a.lanes, b.lanes)));
#endif
    return Simd(a.lanes > b.lanes ? a.lanes : b.lanes);
  }
  static SPLASH_HD Simd min(Simd a, Simd b) { return Simd(a.lanes < b.lanes ? a.lanes : b.lanes); }
  static SPLASH_HD Simd relu(Simd x) { return max(Simd(Real(0)), x); }
  static SPLASH_HD Simd fma(Simd a, Simd b, Simd c) { return Simd(a.lanes * b.lanes + c.lanes); }

  static SPLASH_HD Simd between(Simd low, Simd high) {
    const Integer a = in_order(Integer(low.lanes)), b = in_order(Integer(high.lanes));
    return Simd(Vector(in_order((a & b) + ((a ^ b) >> 1))));
  }

  static SPLASH_HD Simd sqrt(Simd x) {
    if constexpr (sizeof(Real) == 4)
      return each(x, [](Real lane) { return __builtin_sqrtf(lane); });
    else
      return each(x, [](Real lane) { return __builtin_sqrt(lane); });
  }
  static SPLASH_HD Simd log(Simd x) {
    if constexpr (sizeof(Real) == 4)
      return log2(x) * Simd(Real(math::kLn2));
    else
      return each(x, [](Real lane) { return __builtin_log(lane); });
  }

  /// Largest error 1.0 ulp in float (1.3 without FMA); the whole range, subnormal results too.
  static SPLASH_HD Simd exp2(Simd x) {
    if constexpr (sizeof(Real) == 8) {
      return each(x, [](Real lane) { return __builtin_exp2(lane); });
    } else {
      // Both bounds keep a NaN. Outside of them the result is 0 or inf all the same.
      const Simd bounded = min(Simd(129.0f), max(Simd(-151.0f), x));
#if defined(__AVX512F__)
      const Simd whole(Vector(_mm512_maskz_roundscale_ps(0xffff, bounded.lanes, _MM_FROUND_TO_NEAREST_INT)));
#else
      const Simd shifted = bounded + Simd(0x1.8p23f);
      const Simd whole = shifted - Simd(0x1.8p23f);
#endif
      const Simd f = bounded - whole;
      Simd p(0.000155946781613f);
      p = fma(p, f, Simd(0.00134066439024f));
      p = fma(p, f, Simd(0.00961769297299f));
      p = fma(p, f, Simd(0.0555031055101f));
      p = fma(p, f, Simd(0.240226527829f));
      p = fma(p, f, Simd(0.693147214968f));
      p = fma(p, f, Simd(1.0f));
#if defined(__AVX512F__)
      return Simd(Vector(_mm512_maskz_scalef_ps(0xffff, p.lanes, whole.lanes)));
#else
      // 2^n in two factors, as n reaches from -151 to 129.
      const Integer n = Integer(shifted.lanes) - Integer(broadcast(0x1.8p23f));
      const Integer low = n >> 1;
      return p * power_of_two(low) * power_of_two(n - low);
#endif
    }
  }

  /// Largest error 3 ulp in float.
  static SPLASH_HD Simd log2(Simd x) {
    if constexpr (sizeof(Real) == 8) {
      return each(x, [](Real lane) { return __builtin_log2(lane); });
    } else {
      const Mask tiny = x < Simd(0x1p-126f);
      const Integer bits = Integer(select(tiny, x * Simd(0x1p23f), x).lanes);
      const Integer e = (bits - 0x3f3504f3) >> 23;  // the mantissa ends up in [sqrt(1/2), sqrt(2))
      const Simd r = Simd(Vector(bits - (e << 23))) - Simd(1.0f);
      const Simd s = r / (Simd(2.0f) + r);
      const Simd z = s * s;
      Simd p(0.431735879207f);
      p = fma(p, z, Simd(0.576714383962f));
      p = fma(p, z, Simd(0.961798847642f));
      p = fma(p, z, Simd(2.88539007979f));
      const Simd exponent = Simd(to_real(e)) - select(tiny, Simd(23.0f), Simd(0.0f));
      const Simd infinity(math::kInfinity<Real>);
      const Simd nan(__builtin_nanf(""));
      const Simd special = select(x == Simd(0.0f), -infinity, select(x == infinity, infinity, nan));
      return select({(x > Simd(0.0f)).lanes & (x < infinity).lanes}, fma(p, s, exponent), special);
    }
  }

 private:
  template <class Function>
  static SPLASH_HD Simd each(Simd x, Function function) {
    for (int l = 0; l < kLanes; ++l) x.lanes[l] = function(x.lanes[l]);
    return x;
  }
  /// Bits of numbers as integers in the same order, and back.
  static SPLASH_HD Integer in_order(Integer bits) {
    using Natural = typename VectorOf<Real>::natural;
    return bits ^ Integer(Natural(bits >> (8 * int(sizeof(Real)) - 1)) >> 1);
  }
  static SPLASH_HD Vector to_real(Integer n) { return __builtin_convertvector(n, Vector); }
  static SPLASH_HD Simd power_of_two(Integer n) { return Simd(Vector((n + 127) << 23)); }
};

}  // namespace cpu
SPLASH_NAMESPACE_END
