// Puts the results of the ranges of keys of a row together: softmax outputs merge by their log-sum-exp.
#pragma once

#include <cuda_runtime.h>

#include "splash/collective/compiler.hpp"
#include "splash/collective/outputs.hpp"
#include "splash/core/math.hpp"
#include "splash/kernel/split_row.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element, class Normalizer>
struct CombineParams {
  collective::OutputForward<Element> output;
  collective::Geometry geometry;
  collective::Schedule schedule;
  Normalizer normalizer;
  int tile_rows, stored_columns;
};

/// grid: (tiles, tile rows / warps).
template <class Element, class Normalizer>
__global__ void combine_splits(const __grid_constant__ CombineParams<Element, Normalizer> params) {
  const auto& to = params.output;
  const int splits = params.schedule.splits.divisor;
  const SplitRow here = split_row(params);
  const auto& [work, lane, row, first, index] = here;
  collective::wait_for_earlier_kernels();
  if (!here.inside()) return;

  // A lane looks after two splits, so that the answers of all of them are under way together.
  constexpr int kMost = 2;
  float lse[kMost], weight[kMost], most = -math::kInfinity<float>, sum = 0;
  SPLASH_UNROLL
  for (int n = 0; n < kMost; ++n) {
    const int split = 32 * n + lane;
    lse[n] = split < splits ? to.partial_lse[int64_t(first + split) * params.tile_rows + row] : -math::kInfinity<float>;
    most = math::max(most, lse[n]);
  }
  SPLASH_UNROLL
  for (int step = 16; step > 0; step /= 2) most = math::max(most, __shfl_xor_sync(~0u, most, step));
  const float shift = most == -math::kInfinity<float> ? 0.0f : most;
  SPLASH_UNROLL
  for (int n = 0; n < kMost; ++n) {
    weight[n] = math::exp2((lse[n] - shift) * float(math::kLog2E));
    sum += weight[n];
  }
  SPLASH_UNROLL
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);

  const auto at = to.locate(work, params.geometry.packed_sequences(), index);
  const float own = params.normalizer.extra_mass(at.head, shift);
  const float factor = sum == 0.0f ? 0.0f : 1.0f / (sum + own);
  for (int begin = 0; begin < to.head_dim; begin += 128) {
    const int column = begin + 4 * lane;
    const float* parts = to.partial + (int64_t(first) * params.tile_rows + row) * params.stored_columns + column;
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int s = 0; s < splits; ++s) {
      const float share = __shfl_sync(~0u, s < 32 ? weight[0] : weight[1], s & 31) * factor;
      if (share == 0.0f || column >= to.head_dim) continue;
      const float4 part =
          *reinterpret_cast<const float4*>(parts + int64_t(s) * params.tile_rows * params.stored_columns);
      total.x += share * part.x;
      total.y += share * part.y;
      total.z += share * part.z;
      total.w += share * part.w;
    }
    if (column >= to.head_dim) continue;
    Element* out = to.at(at) + column;
    out[0] = Element(total.x);
    out[1] = Element(total.y);
    out[2] = Element(total.z);
    out[3] = Element(total.w);
  }
  if (lane == 0) to.statistic[to.statistic_at(at)] = most == -math::kInfinity<float> ? most : most + math::log(sum);
}

}  // namespace kernel
SPLASH_NAMESPACE_END
