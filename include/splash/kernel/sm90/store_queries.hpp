// dQ that the fused backward added up in float32, on its way to the tensor.
#pragma once

#include "splash/collective/sm90/backward/epilogue.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element>
struct StoreQueriesParams {
  collective::GradientTensor<Element> to;
  const float4* from;  ///< tiles in the order in which the consumers of Config add to them
  collective::Geometry geometry;
  collective::Schedule schedule;
  int head_dim;
};

inline constexpr int kStoreQueriesThreads = 128;

/// One block of threads a half of a tile. grid: (tiles, halves). Rows that are padding are written as zeros.
template <class Config>
__global__ void __launch_bounds__(kStoreQueriesThreads)
    store_queries(const __grid_constant__ StoreQueriesParams<typename Config::Element> params) {
  using namespace collective;
  using Element = typename Config::Element;
  constexpr int kQuads = Config::kPartDim / 8, kChunks = Config::kPartDim / 8;
  __shared__ __align__(16) Element staged[64][Config::kPartDim + 8];
  const int thread = int(threadIdx.x), part = int(blockIdx.y);
  WorkTile work;
  make_work_tile(work, params.geometry, params.schedule, Config::kColumns, int(blockIdx.x));
  const int first = work.row_begin + (Config::kQueryParts > 1 ? 64 * part : 0);
  if (first >= work.row_count) return;
  const int64_t tile =
      query_tiles(params.geometry, Config::kColumns).first(params.geometry, work.frame, work.frame.head, work.queries) +
      work.row_begin / Config::kColumns;

  const float4* from = params.from + (tile * Config::kConsumers + part) * kQuads * 128 + thread;
  float4 quads[kQuads];
#pragma unroll
  for (int n = 0; n < kQuads; ++n) quads[n] = __ldcs(from + n * 128);
  float factor[kFragmentRows];
#pragma unroll
  for (int r = 0; r < kFragmentRows; ++r)
    factor[r] = first + accumulator_row(thread, r) < work.frame.num_queries ? params.to.scale : 0.0f;
#pragma unroll
  for (int n = 0; n < kQuads; ++n) {
    const float of_row[kFragmentRows][2] = {{quads[n].x, quads[n].y}, {quads[n].z, quads[n].w}};
#pragma unroll
    for (int r = 0; r < kFragmentRows; ++r) {
      Element* pair = &staged[accumulator_row(thread, r)][accumulator_column(thread & 31, 2 * n)];
      pair[0] = Element(scaled(of_row[r][0], factor[r]));
      pair[1] = Element(scaled(of_row[r][1], factor[r]));
    }
  }
  __syncthreads();

  const int batch = params.geometry.packed_sequences() ? 0 : work.frame.batch;
  Element* head = params.to.data + batch * params.to.batch_stride + work.frame.head * params.to.head_stride;
  const int begin = Config::kDimParts > 1 ? Config::kPartDim * part : 0;
#pragma unroll
  for (int n = thread; n < 64 * kChunks; n += kStoreQueriesThreads) {
    const int row = n / kChunks, column = n % kChunks * 8, index = first + row;
    if (index >= work.row_count || begin + column >= params.head_dim) continue;
    const int64_t at = int64_t(work.queries.outer + index) * params.geometry.residues.divisor + work.queries.inner;
    *reinterpret_cast<uint4*>(head + at * params.to.row_stride + begin + column) =
        *reinterpret_cast<const uint4*>(&staged[row][column]);
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
