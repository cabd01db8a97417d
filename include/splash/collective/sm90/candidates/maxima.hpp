// Maxima of scores: of the buckets of a row, whose maxima are scores of disjoint sets of its keys, and of tiles.
//
// A threshold for the maxima of buckets is at most that of all keys; it costs no sum over the scores. The three-input
// maximum of Hopper takes two scores an instruction, but integers alone. Of floats that are not negative it is right as
// it is, and a NaN is more than all of them; a negative one is less than -inf, as an integer, and goes unseen. So a
// first sweep looks at scores as integers, and a second one as floats where a row has nothing but negative ones.
#pragma once

#include <cfloat>

#include "splash/collective/sm90/fragment.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

inline constexpr int kBuckets = 8;  ///< of a row in a thread: four times as many in all

/// As integers: -inf is the least of what is seen.
__device__ __forceinline__ float max3_seen(float a, float b, float c) {
  return __int_as_float(max(max(__float_as_int(a), __float_as_int(b)), __float_as_int(c)));
}

__device__ __forceinline__ float max_with_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

/// The maxima of a thread's buckets as a fragment that a normalizer observes.
struct BucketFragment {
  const float (&maxima)[kFragmentRows][kBuckets];

  static constexpr int columns() { return kBuckets; }
  __device__ __forceinline__ float get(int r, int c) const { return maxima[r][c]; }
};

struct MaximaSm90 {
  float buckets[kFragmentRows][kBuckets];

  __device__ __forceinline__ void clear() {
    SPLASH_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      SPLASH_UNROLL
      for (int b = 0; b < kBuckets; ++b) buckets[r][b] = -math::kInfinity<float>;
    }
  }

  /// Returns the maxima of the tile in `top`.
  template <bool AsIntegers, class Scores>
  __device__ __forceinline__ void observe(const Scores& scores, float (&top)[kFragmentRows]) {
    constexpr int kColumns = decltype(cute::size(scores))::value / kFragmentRows, kEach = kColumns / kBuckets;
    static_assert(kColumns % (2 * kBuckets) == 0, "a bucket takes pairs of scores of a tile");
    SPLASH_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      top[r] = -math::kInfinity<float>;
      SPLASH_UNROLL
      for (int b = 0; b < kBuckets; ++b) {
        float most = scores(accumulator_register(r, kEach * b));
        if constexpr (AsIntegers) {
          SPLASH_UNROLL
          for (int c = 1; c + 1 < kEach; c += 2)
            most = max3_seen(most, scores(accumulator_register(r, kEach * b + c)),
                             scores(accumulator_register(r, kEach * b + c + 1)));
          const float last = scores(accumulator_register(r, kEach * b + kEach - 1));
          buckets[r][b] = max3_seen(buckets[r][b], most, last);
          top[r] = max3_seen(top[r], most, last);
        } else {
          SPLASH_UNROLL
          for (int c = 1; c < kEach; ++c) most = max_with_nan(most, scores(accumulator_register(r, kEach * b + c)));
          buckets[r][b] = max_with_nan(buckets[r][b], most);
          top[r] = max_with_nan(top[r], most);
        }
      }
    }
  }
};

/// Two maxima in half the bits, neither less than it was.
__device__ __forceinline__ uint32_t pack_upwards(float low, float high) {
  const auto up = [](float x) {
    const int bits = __float_as_int(x);
    return uint32_t(bits) + (~(bits >> 31) & 0xffff);
  };
  return __byte_perm(up(low), up(high), 0x7632);
}
__device__ __forceinline__ float low_of(uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_of(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

}  // namespace collective
SPLASH_NAMESPACE_END
