// Adds up what the ranges of columns of a row gave.
#pragma once

#include <cuda_runtime.h>

#include "splash/collective/compiler.hpp"
#include "splash/collective/outputs.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element>
struct CombineGradientsParams {
  collective::OutputBackward<Element> output;
  collective::Geometry geometry;
  collective::Schedule schedule;
  int outputs, tile_rows, stored_columns;
};

/// One warp a row, always in the order of the columns, so that results repeat bit for bit. grid: (tiles, tile rows /
/// warps, outputs).
template <class Element>
__global__ void combine_gradients(const __grid_constant__ CombineGradientsParams<Element> params) {
  const auto& to = params.output;
  const int splits = params.schedule.splits.divisor, output = int(blockIdx.z);
  const int lane = int(threadIdx.x) & 31, row = int(blockIdx.y) * int(blockDim.x / 32) + int(threadIdx.x) / 32;
  const int first = int(blockIdx.x) * splits;
  collective::WorkTile work;
  collective::make_work_tile(work, params.geometry, params.schedule, params.tile_rows,
                             params.schedule.first_split_item + first);
  const int index = work.row_begin + row;
  collective::wait_for_earlier_kernels();
  if (index >= work.row_count) return;

  const float scale = to.gradients[output].scale;
  for (int column = 4 * lane; column < to.head_dim; column += 128) {
    float4 total = make_float4(0, 0, 0, 0);
    for (int s = 0; s < splits; ++s) {
      const int64_t at = (int64_t(output) * to.split_items + first + s) * params.tile_rows + row;
      const float4 part = *reinterpret_cast<const float4*>(to.partial + at * params.stored_columns + column);
      total.x += part.x;
      total.y += part.y;
      total.z += part.z;
      total.w += part.w;
    }
    Element* out = to.at(output, params.geometry, work, index) + column;
    const float sums[4] = {total.x, total.y, total.z, total.w};
#pragma unroll
    for (int n = 0; n < 4; ++n) out[n] = Element((to.adds ? float(out[n]) : 0.0f) + collective::scaled(sums[n], scale));
  }
  if (to.dots && output == 0 && lane == 0) {
    float sum = 0;
    for (int s = 0; s < splits; ++s) sum += to.partial_dots[int64_t(first + s) * params.tile_rows + row];
    to.dots[collective::query_at(params.geometry, work.frame, work.frame.head, work.queries, index)] = sum;
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
