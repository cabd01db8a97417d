// The lanes that share a row of 16-bit elements, 8 of them each.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

/// Rows of (B, H, N, D) tensors, 16 bytes aligned; strides in elements: row, head, batch.
template <class Element>
struct RowsOf {
  Element* data;
  int64_t stride[3];

  SPLASH_HD Element* at(int batch, int head, int64_t row) const {
    return data + batch * stride[2] + head * stride[1] + row * stride[0];
  }
};

/// Blocks of threads dealt out to blocks of rows: those of a head follow each other, then come heads, then batch
/// entries.
struct RowBlocks {
  int each;                   ///< of a head
  int heads;                  ///< of the call
  int first_head, head_step;  ///< of all
  struct Place {
    int block, head, batch;
  };

  SPLASH_HD int64_t count(int batches) const { return int64_t(each) * heads * batches; }
  __device__ __forceinline__ Place own() const {
    const int line = int(blockIdx.x) / each, batch = line / heads;
    return {int(blockIdx.x) - line * each, first_head + (line - batch * heads) * head_step, batch};
  }
};

/// A lane's share of a row's numbers in shared memory, as a normalizer sees them.
template <int Lanes>
struct ListFragment {
  float* values;
  int count, lane;

  __device__ __forceinline__ int columns() const { return (count - lane + Lanes - 1) / Lanes; }
  __device__ __forceinline__ float get(int, int c) const { return values[lane + c * Lanes]; }
  __device__ __forceinline__ void set(int, int c, float value) { values[lane + c * Lanes] = value; }
};

/// 4, 8, 16 or 32 neighbouring lanes of a warp, as many as a row of `HeadDim` elements takes.
template <class Element, int HeadDim>
struct RowLanes {
  static constexpr int kLanes = HeadDim <= 32 ? 4 : HeadDim <= 64 ? 8 : HeadDim <= 128 ? 16 : 32;

  __device__ __forceinline__ static int lane() { return int(threadIdx.x) % kLanes; }
  __device__ __forceinline__ static unsigned mask() {
    if constexpr (kLanes == 32) return ~0u;
    return ((1u << (kLanes & 31)) - 1) << (threadIdx.x & 31 & ~(kLanes - 1));
  }
  /// This lane's bits of a vote, from bit 0 on.
  __device__ __forceinline__ static unsigned ballot(bool mine) {
    return __ballot_sync(mask(), mine) >> (threadIdx.x & 31 & ~(kLanes - 1)) &
           (kLanes == 32 ? ~0u : (1u << (kLanes & 31)) - 1);
  }
  __device__ __forceinline__ static float sum(float value) {
    SPLASH_UNROLL
    for (int step = 1; step < kLanes; step *= 2) value += __shfl_xor_sync(mask(), value, step);
    return value;
  }
  __device__ __forceinline__ static float max(float value) {
    SPLASH_UNROLL
    for (int step = 1; step < kLanes; step *= 2) value = math::max(value, __shfl_xor_sync(mask(), value, step));
    return value;
  }

  struct Vector {
    uint4 bits = make_uint4(0, 0, 0, 0);
    __device__ __forceinline__ float operator[](int n) const {
      return float(reinterpret_cast<const Element*>(&bits)[n]);
    }
  };
  /// This lane's 8 elements of a row; zeros behind its end.
  __device__ __forceinline__ static Vector load(const Element* row, int head_dim) {
    Vector vector;
    if (lane() * 8 < head_dim) vector.bits = __ldg(reinterpret_cast<const uint4*>(row) + lane());
    return vector;
  }
  __device__ __forceinline__ static void store(Element* row, int head_dim, const float (&values)[8]) {
    Element elements[8];
    SPLASH_UNROLL
    for (int n = 0; n < 8; ++n) elements[n] = Element(values[n]);
    if (lane() * 8 < head_dim) reinterpret_cast<uint4*>(row)[lane()] = *reinterpret_cast<const uint4*>(elements);
  }
  __device__ __forceinline__ static float dot(const float (&a)[8], const Vector& b) {
    float product = 0;
    SPLASH_UNROLL
    for (int n = 0; n < 8; ++n) product = fmaf(a[n], b[n], product);
    return product;
  }
  __device__ __forceinline__ static void add(float (&sum)[8], float weight, const Vector& row) {
    SPLASH_UNROLL
    for (int n = 0; n < 8; ++n) sum[n] = fmaf(weight, row[n], sum[n]);
  }

  /// As a normalizer reduces.
  struct Reduce {
    __device__ __forceinline__ float max(float value) const { return RowLanes::max(value); }
    __device__ __forceinline__ float sum(float value) const { return RowLanes::sum(value); }
  };
};

}  // namespace kernel
SPLASH_NAMESPACE_END
