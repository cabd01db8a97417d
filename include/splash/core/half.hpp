// 16-bit storage types: bits with conversions to and from float, round to nearest even. Arithmetic happens in float.
#pragma once

#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN

struct half_t {
  uint16_t bits;

  half_t() = default;
  explicit SPLASH_HD constexpr half_t(float value) : bits(encode(value)) {}
  explicit SPLASH_HD constexpr operator float() const { return decode(bits); }

 private:
  static SPLASH_HD constexpr uint16_t encode(float value) {
    const uint32_t word = __builtin_bit_cast(uint32_t, value);
    const uint32_t magnitude = word & 0x7fffffffu;
    const uint32_t sign = (word >> 16) & 0x8000u;
    if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
      // Subnormal: adding 0.5 lets the float adder round to a multiple of 2^-24.
      const float sum = __builtin_bit_cast(float, magnitude) + 0.5f;
      return uint16_t(sign | (__builtin_bit_cast(uint32_t, sum) - 0x3f000000u));
    }
    return uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
  }

  static SPLASH_HD constexpr float decode(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude < 0x400u) {
      const float value = float(magnitude) * 0x1p-24f;
      return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, value) | sign);
    }
    const uint32_t bias = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
    return __builtin_bit_cast(float, ((magnitude << 13) + bias) | sign);
  }
};

struct bfloat16_t {
  uint16_t bits;

  bfloat16_t() = default;
  explicit SPLASH_HD constexpr bfloat16_t(float value) : bits(encode(value)) {}
  explicit SPLASH_HD constexpr operator float() const { return __builtin_bit_cast(float, uint32_t(bits) << 16); }

 private:
  static SPLASH_HD constexpr uint16_t encode(float value) {
    const uint32_t word = __builtin_bit_cast(uint32_t, value);
    if ((word & 0x7fffffffu) > 0x7f800000u) return uint16_t((word >> 16) | 0x40u);
    return uint16_t((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
};

SPLASH_NAMESPACE_END
