// Packed sequences: rows that belong to no sequence become 0.
#pragma once

#include <cuda_runtime.h>

#include "splash/collective/outputs.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

/// Rows after the last sequence, and those that a sequence longer than max_queries leaves over. One warp a row.
template <class Element>
__global__ void fill_unclaimed(const collective::OutputForward<Element> to, const collective::Geometry geometry,
                               float empty_statistic, int saved) {
  const int row = int(blockIdx.x) * int(blockDim.x / 32) + int(threadIdx.x) / 32, lane = int(threadIdx.x) & 31;
  if (row >= geometry.num_queries) return;
  const int32_t* ends = geometry.positions.cu_queries;
  // The last sequence that begins at or before the row.
  int first = 0, last = geometry.batches;
  while (first + 1 < last) {
    const int middle = (first + last) / 2;
    (ends[middle] <= row ? first : last) = middle;
  }
  if (geometry.batches > 0) {
    const Frame frame = make_packed_frame(geometry.positions, first, 0, geometry.num_queries, geometry.num_keys);
    if (frame.first_row <= row && row < frame.first_row + frame.num_queries) return;
  }
  for (int head = 0; head < geometry.heads; ++head) {
    Element* out = to.out + head * to.head_stride + row * to.row_stride;
    for (int d = lane; d < to.head_dim; d += 32) out[d] = Element(0);
    if (lane == 0) {
      to.statistic[int64_t(head) * geometry.num_queries + row] = empty_statistic;
      for (int s = 0; s < saved; ++s) to.saved[s * to.saved_stride + int64_t(head) * geometry.num_queries + row] = 0;
    }
  }
}

template <class Element>
cudaError_t launch_fill_unclaimed(const collective::OutputForward<Element>& to, const collective::Geometry& geometry,
                                  float empty_statistic, int saved, cudaStream_t stream) {
  constexpr int kWarps = 8;
  const unsigned blocks = unsigned((geometry.num_queries + kWarps - 1) / kWarps);
  fill_unclaimed<Element><<<blocks, 32 * kWarps, 0, stream>>>(to, geometry, empty_statistic, saved);
  return cudaGetLastError();
}

}  // namespace kernel
SPLASH_NAMESPACE_END
