// Puts the results of the ranges of keys of a row together: softmax outputs merge by their log-sum-exp.
#pragma once

#include "splash/collective/epilogue_forward_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element, class Normalizer>
struct CombineParams {
  collective::OutputForwardSm90<Element> output;
  collective::Geometry geometry;
  collective::Schedule schedule;
  Normalizer normalizer;
  int tile_rows, stored_columns;
};

/// One warp a row, always in the order of the keys, so that results repeat bit for bit. grid: (tiles, tile rows /
/// warps).
template <class Element, class Normalizer>
__global__ void combine_splits(const __grid_constant__ CombineParams<Element, Normalizer> params) {
  const auto& to = params.output;
  const int splits = params.schedule.splits.divisor;
  const int lane = int(threadIdx.x) & 31, row = int(blockIdx.y) * int(blockDim.x / 32) + int(threadIdx.x) / 32;
  const int first = int(blockIdx.x) * splits;
  collective::Work work;
  collective::make_work(work, params.geometry, params.schedule, params.tile_rows, first);
  const int index = work.row_begin + row;
  if (index >= work.row_count) return;

  const auto lse_of = [&](int split) { return to.partial_lse[int64_t(first + split) * params.tile_rows + row]; };
  float most = -math::kInfinity<float>;
  for (int s = 0; s < splits; ++s) most = math::max(most, lse_of(s));
  const float shift = most == -math::kInfinity<float> ? 0.0f : most;
  float sum = 0;
  for (int s = 0; s < splits; ++s) sum += math::exp2((lse_of(s) - shift) * float(math::kLog2E));

  const auto at = to.locate(work, params.geometry.packed_sequences(), index);
  const float own = params.normalizer.extra_mass(at.head, shift);
  const float factor = sum == 0.0f ? 0.0f : 1.0f / (sum + own);
  for (int column = 4 * lane; column < to.head_dim; column += 128) {
    float4 total = make_float4(0, 0, 0, 0);
    for (int s = 0; s < splits; ++s) {
      const float weight = math::exp2((lse_of(s) - shift) * float(math::kLog2E)) * factor;
      if (weight == 0.0f) continue;
      const float4 part = *reinterpret_cast<const float4*>(
          to.partial + (int64_t(first + s) * params.tile_rows + row) * params.stored_columns + column);
      total.x += weight * part.x;
      total.y += weight * part.y;
      total.z += weight * part.z;
      total.w += weight * part.w;
    }
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
