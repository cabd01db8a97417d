// The backward's first kernel: what the sweeps need to know of each query (RowStats), from the forward's results; and
// zeros, where they count and add.
#pragma once

#include <cuda_runtime.h>

#include "splash/kernel/row_lanes.hpp"
#include "splash/normalizers/concept.hpp"
#include "splash/tuning/rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element, class Normalizer>
struct PrepareParams {
  RowsOf<const Element> out, grad_out;
  const float *statistic, *grad_statistic;  ///< (B, Hq, Nq); grad_statistic may be nullptr
  float2* row_stats;                        ///< (B, Hq, Nq)
  Normalizer normalizer;
  int heads, num_queries, head_dim, row_tiles;
  float4* zeros;  ///< so many are written
  int64_t num_zeros;
};

/// rowsum(dO * O), by `Lanes` neighbouring lanes for a few rows. One block of threads a tile of rows of one head.
template <int Lanes, class Element, class Normalizer>
__global__ void prepare_backward(const __grid_constant__ PrepareParams<Element, Normalizer> params) {
  constexpr int kEach = 16 / int(sizeof(Element)), kRows = tuning::kPrepareBackward.rows;
  static_assert(kRows <= Lanes, "each row has a lane that writes it");
  const int line = int(blockIdx.x) / params.row_tiles, tile = int(blockIdx.x) - line * params.row_tiles;
  const int first = (tile * int(blockDim.x) + int(threadIdx.x)) / Lanes * kRows, lane = int(threadIdx.x) % Lanes;
  const int batch = line / params.heads, head = line - batch * params.heads;
  const int row = first + lane;
  const bool writes = lane < kRows && row < params.num_queries;
  const int64_t at = int64_t(line) * params.num_queries + row;
  const float statistic = writes ? params.statistic[at] : 0;
  const float grad_statistic = writes && params.grad_statistic ? params.grad_statistic[at] : 0;
  float dots[kRows] = {};
  for (int d = lane * kEach; d < params.head_dim; d += Lanes * kEach) {
    uint4 out[kRows] = {}, grad[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first + r >= params.num_queries) continue;
      out[r] = *reinterpret_cast<const uint4*>(params.out.at(batch, head, first + r) + d);
      grad[r] = *reinterpret_cast<const uint4*>(params.grad_out.at(batch, head, first + r) + d);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const auto* x = reinterpret_cast<const Element*>(&out[r]);
      const auto* y = reinterpret_cast<const Element*>(&grad[r]);
#pragma unroll
      for (int n = 0; n < kEach; ++n) dots[r] += float(x[n]) * float(y[n]);
    }
  }
  float dot = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int step = Lanes / 2; step > 0; step /= 2) dots[r] += __shfl_xor_sync(~0u, dots[r], step);
    if (lane == r) dot = dots[r];
  }
  if (writes) {
    const auto normalizer = normalizers::of_head(params.normalizer, head);
    const auto row_stats = normalizers::row_stats(normalizer, statistic, dot, grad_statistic);
    params.row_stats[at] = make_float2(row_stats.shift, row_stats.delta);
  }
  const int64_t threads = int64_t(gridDim.x) * blockDim.x;
#pragma unroll 4
  for (int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; n < params.num_zeros; n += threads)
    params.zeros[n] = make_float4(0, 0, 0, 0);
}

template <class Element, class Normalizer>
cudaError_t launch_prepare_backward(PrepareParams<Element, Normalizer> params, int batches, cudaStream_t stream) {
  constexpr int kThreads = tuning::kPrepareBackward.threads;
  const auto launch = [&]<int Lanes>() {
    constexpr int kRows = kThreads / Lanes * tuning::kPrepareBackward.rows;
    params.row_tiles = (params.num_queries + kRows - 1) / kRows;
    const unsigned grid = unsigned(params.row_tiles) * unsigned(params.heads) * unsigned(batches);
    if (grid == 0) return;
    prepare_backward<Lanes, Element, Normalizer><<<grid, kThreads, 0, stream>>>(params);
  };
  switch (tuning::RowGroups::lanes(params.head_dim)) {
    case 4:
      launch.template operator()<4>();
      break;
    case 8:
      launch.template operator()<8>();
      break;
    default:
      launch.template operator()<16>();
  }
  return cudaGetLastError();
}

}  // namespace kernel
SPLASH_NAMESPACE_END
