// The backward's first kernel: what the sweeps need to know of each query (RowNumbers), from the forward's results.
#pragma once

#include <cuda_runtime.h>

#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

/// Rows of (B, Hq, Nq, D) tensors, 16 bytes aligned; strides in elements: row, head, batch.
template <class Element>
struct RowsOf {
  const Element* data;
  int64_t stride[3];

  SPLASH_HD const Element* at(int batch, int head, int row) const {
    return data + batch * stride[2] + head * stride[1] + row * stride[0];
  }
};

template <class Element, class Normalizer>
struct PrepareParams {
  RowsOf<Element> out, grad_out;
  const float *statistic, *grad_statistic;  ///< (B, Hq, Nq); grad_statistic may be nullptr
  float2* numbers;                          ///< (B, Hq, Nq)
  Normalizer normalizer;
  int heads, num_queries, head_dim, row_tiles;
};

/// Rows of a thread, all of whose loads are under way together: with one row a thread the launch of threads is slower
/// than the memory.
inline constexpr int kPrepareRows = 2;

/// rowsum(dO * O), by `Lanes` neighbouring lanes a row. One block of threads a tile of rows of one head.
template <int Lanes, class Element, class Normalizer>
__global__ void prepare_backward(const __grid_constant__ PrepareParams<Element, Normalizer> params) {
  constexpr int kEach = 16 / int(sizeof(Element));
  static_assert(kPrepareRows <= Lanes, "a lane a row at the end");
  const int line = int(blockIdx.x) / params.row_tiles, tile = int(blockIdx.x) - line * params.row_tiles;
  const int rows = int(blockDim.x) / Lanes, lane = int(threadIdx.x) % Lanes;
  const int first = tile * rows * kPrepareRows + int(threadIdx.x) / Lanes;
  const int batch = line / params.heads, head = line - batch * params.heads;
  // Lane n of a row's lanes ends the work on row n.
  const int own = first + lane * rows;
  const bool ends = lane < kPrepareRows && own < params.num_queries;
  const int64_t at = int64_t(line) * params.num_queries + own;
  const float statistic = ends ? params.statistic[at] : 0;
  const float dstatistic = ends && params.grad_statistic ? params.grad_statistic[at] : 0;

  float dots[kPrepareRows] = {};
#pragma unroll 1
  for (int d = lane * kEach; d < params.head_dim; d += Lanes * kEach) {
    uint4 a[kPrepareRows], b[kPrepareRows];
#pragma unroll
    for (int r = 0; r < kPrepareRows; ++r) {
      const int row = first + r * rows;
      a[r] = b[r] = make_uint4(0, 0, 0, 0);
      if (row >= params.num_queries) continue;
      a[r] = *reinterpret_cast<const uint4*>(params.out.at(batch, head, row) + d);
      b[r] = *reinterpret_cast<const uint4*>(params.grad_out.at(batch, head, row) + d);
    }
#pragma unroll
    for (int r = 0; r < kPrepareRows; ++r) {
      const auto* x = reinterpret_cast<const Element*>(&a[r]);
      const auto* y = reinterpret_cast<const Element*>(&b[r]);
#pragma unroll
      for (int n = 0; n < kEach; ++n) dots[r] += float(x[n]) * float(y[n]);
    }
  }
  float dot = 0;
#pragma unroll
  for (int r = 0; r < kPrepareRows; ++r) {
#pragma unroll
    for (int step = Lanes / 2; step > 0; step /= 2) dots[r] += __shfl_xor_sync(~0u, dots[r], step);
    if (lane == r) dot = dots[r];
  }
  if (!ends) return;
  const auto numbers = normalizers::of_head(params.normalizer, head).row_numbers(statistic, dot, dstatistic);
  params.numbers[at] = make_float2(numbers.shift, numbers.delta);
}

template <class Element, class Normalizer>
cudaError_t launch_prepare_backward(PrepareParams<Element, Normalizer> params, int batches, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const auto launch = [&]<int Lanes>() {
    constexpr int kRows = kThreads / Lanes * kPrepareRows;
    params.row_tiles = (params.num_queries + kRows - 1) / kRows;
    const unsigned grid = unsigned(params.row_tiles) * unsigned(params.heads) * unsigned(batches);
    if (grid == 0) return;
    prepare_backward<Lanes, Element, Normalizer><<<grid, kThreads, 0, stream>>>(params);
  };
  if (params.head_dim <= 32)
    launch.template operator()<4>();
  else if (params.head_dim <= 64)
    launch.template operator()<8>();
  else
    launch.template operator()<16>();
  return cudaGetLastError();
}

}  // namespace kernel
SPLASH_NAMESPACE_END
