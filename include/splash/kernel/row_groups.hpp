// The threads that share a row: how they reach its numbers and how they combine what they found.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

inline constexpr int kRowBlock = 128;  ///< threads of a block where rows take a warp or less

/// The type of sums.
template <class Element>
struct RealTypeOf {
  using type = float;
};
template <>
struct RealTypeOf<double> {
  using type = double;
};
template <class Element>
using RealOf = typename RealTypeOf<Element>::type;

/// Numbers in 16 bytes.
template <class Element>
inline constexpr int kVectorLength = 16 / int(sizeof(Element));

template <class Element>
struct alignas(16) VectorOfElements {
  Element values[kVectorLength<Element>];
};

/// The larger one, NaN where either is.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ double max_or_nan(double a, double b) { return a > b || a != a ? a : b; }

/// A row in chunks of kThreads * kVectorLength numbers, of which a thread has kVectorLength: neighbours where rows are
/// aligned, kThreads apart where they are not, so that a warp reads and writes whole lines either way. Index: a type
/// that holds the row's length.
template <class Element, int kThreads, class Index>
struct RowAccess {
  using Real = RealOf<Element>;
  static constexpr int kVector = kVectorLength<Element>;
  Index length;
  bool aligned;
  int rank;

  __device__ __forceinline__ Index chunks() const { return (length + kThreads * kVector - 1) / (kThreads * kVector); }

  /// All loads are under way before the first one is used.
  template <int kChunks>
  __device__ __forceinline__ void load(const Element* from, Index chunk, Real fill,
                                       Real (&to)[kChunks * kVector]) const {
    VectorOfElements<Element> vectors[kChunks];
    if (aligned) {
      SPLASH_UNROLL
      for (int c = 0; c < kChunks; ++c) {
        const Index at = (chunk + c) * (kThreads * kVector) + rank * kVector;
        SPLASH_UNROLL
        for (int e = 0; e < kVector; ++e) vectors[c].values[e] = Element(fill);
        if (at < length) vectors[c] = *reinterpret_cast<const VectorOfElements<Element>*>(from + at);
      }
    } else {
      SPLASH_UNROLL
      for (int c = 0; c < kChunks; ++c) {
        SPLASH_UNROLL
        for (int e = 0; e < kVector; ++e) {
          const Index at = (chunk + c) * (kThreads * kVector) + e * kThreads + rank;
          vectors[c].values[e] = at < length ? from[at] : Element(fill);
        }
      }
    }
    SPLASH_UNROLL
    for (int v = 0; v < kChunks * kVector; ++v) to[v] = Real(vectors[v / kVector].values[v % kVector]);
  }

  template <int kChunks>
  __device__ __forceinline__ void store(Element* to, Index chunk, const Real (&from)[kChunks * kVector]) const {
    SPLASH_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      const Index begin = (chunk + c) * (kThreads * kVector);
      if (aligned) {
        const Index at = begin + rank * kVector;
        VectorOfElements<Element> vector;
        SPLASH_UNROLL
        for (int e = 0; e < kVector; ++e) vector.values[e] = Element(from[c * kVector + e]);
        if (at < length) *reinterpret_cast<VectorOfElements<Element>*>(to + at) = vector;
      } else {
        SPLASH_UNROLL
        for (int e = 0; e < kVector; ++e) {
          const Index at = begin + e * kThreads + rank;
          if (at < length) to[at] = Element(from[c * kVector + e]);
        }
      }
    }
  }
};

/// Butterflies over kLanes neighbouring lanes: every lane gets the same bits. All lanes of the warp must take part.
template <int kLanes, class Real>
__device__ __forceinline__ Real max_over_lanes(Real x) {
  SPLASH_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = max_or_nan(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
template <int kLanes, class Real>
__device__ __forceinline__ void sums_over_lanes(Real& a, Real& b) {
  SPLASH_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    a += __shfl_xor_sync(0xffffffffu, a, offset);
    b += __shfl_xor_sync(0xffffffffu, b, offset);
  }
}

/// A row for up to a warp: kRowBlock / kThreads rows a block. Rows past the last one are empty, but take part.
template <class Real, int kThreads>
class RowGroup {
 public:
  struct Storage {};
  explicit __device__ __forceinline__ RowGroup(Storage&) {}

  __device__ __forceinline__ int rank() const { return int(threadIdx.x) % kThreads; }
  __device__ __forceinline__ int64_t row() const {
    return int64_t(blockIdx.x) * (kRowBlock / kThreads) + threadIdx.x / kThreads;
  }
  __device__ __forceinline__ Real max(Real x) const { return max_over_lanes<kThreads>(x); }
  __device__ __forceinline__ void sums(Real& a, Real& b) const { sums_over_lanes<kThreads>(a, b); }
  __device__ __forceinline__ bool any(bool again) const {
    return kThreads == 32 ? again : bool(__any_sync(0xffffffffu, again));
  }
};

/// A row a block. Two slots: whoever writes one again has seen a barrier after everybody's last read of it.
template <class Real, int kThreads>
  requires(kThreads > 32)
class RowGroup<Real, kThreads> {
  static constexpr int kWarps = kThreads / 32;

 public:
  struct Storage {
    Real a[2][kWarps], b[2][kWarps];
  };
  explicit __device__ __forceinline__ RowGroup(Storage& storage) : storage_(storage) {}

  __device__ __forceinline__ int rank() const { return int(threadIdx.x); }
  __device__ __forceinline__ int64_t row() const { return blockIdx.x; }

  __device__ __forceinline__ Real max(Real x) const {
    x = max_over_lanes<32>(x);
    if (lane() == 0) storage_.a[slot_][threadIdx.x / 32] = x;
    __syncthreads();
    x = storage_.a[slot_][lane() % kWarps];
    slot_ ^= 1;
    return max_over_lanes<kWarps>(x);
  }
  __device__ __forceinline__ void sums(Real& a, Real& b) const {
    sums_over_lanes<32>(a, b);
    if (lane() == 0) {
      storage_.a[slot_][threadIdx.x / 32] = a;
      storage_.b[slot_][threadIdx.x / 32] = b;
    }
    __syncthreads();
    a = storage_.a[slot_][lane() % kWarps];
    b = storage_.b[slot_][lane() % kWarps];
    slot_ ^= 1;
    sums_over_lanes<kWarps>(a, b);
  }
  /// Every thread found the same.
  __device__ __forceinline__ bool any(bool again) const { return again; }

 private:
  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }

  Storage& storage_;
  mutable int slot_ = 0;
};

/// 32 rows that are neighbours, a lane each; the kWarps warps of a block share them.
template <class Real, int kWarps>
class ColumnGroup {
 public:
  struct Storage {
    Real a[kWarps][33], b[kWarps][33];
    Real all_a[32], all_b[32];
  };
  explicit __device__ __forceinline__ ColumnGroup(Storage& storage) : storage_(storage) {}

  static __device__ __forceinline__ int lane() { return int(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp() { return int(threadIdx.x) / 32; }

  // Each warp combines 32 / kWarps columns, with kWarps lanes for each.
  __device__ __forceinline__ Real max(Real x) const {
    storage_.a[warp()][lane()] = x;
    __syncthreads();
    x = max_over_lanes<kWarps>(storage_.a[lane() % kWarps][column()]);
    if (lane() % kWarps == 0) storage_.all_a[column()] = x;
    __syncthreads();
    return storage_.all_a[lane()];
  }
  __device__ __forceinline__ void sums(Real& a, Real& b) const {
    storage_.a[warp()][lane()] = a;
    storage_.b[warp()][lane()] = b;
    __syncthreads();
    a = storage_.a[lane() % kWarps][column()];
    b = storage_.b[lane() % kWarps][column()];
    sums_over_lanes<kWarps>(a, b);
    if (lane() % kWarps == 0) {
      storage_.all_a[column()] = a;
      storage_.all_b[column()] = b;
    }
    __syncthreads();
    a = storage_.all_a[lane()];
    b = storage_.all_b[lane()];
  }
  /// All warps hold the same 32 rows, so all find the same.
  __device__ __forceinline__ bool any(bool again) const { return __any_sync(0xffffffffu, again); }

 private:
  static __device__ __forceinline__ int column() { return warp() * (32 / kWarps) + lane() / kWarps; }

  Storage& storage_;
};

}  // namespace kernel
SPLASH_NAMESPACE_END
