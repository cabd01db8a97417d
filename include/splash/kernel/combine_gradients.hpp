// Adds up what the ranges of columns of a row gave.
#pragma once

#include <cuda_runtime.h>

#include "splash/collective/compiler.hpp"
#include "splash/collective/outputs.hpp"
#include "splash/kernel/split_row.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element>
struct CombineGradientsParams {
  collective::OutputBackward<Element> output;
  collective::Geometry geometry;
  collective::Schedule schedule;
  int outputs, tile_rows, stored_columns;
};

/// grid: (tiles, tile rows / warps, outputs).
template <class Element>
__global__ void combine_gradients(const __grid_constant__ CombineGradientsParams<Element> params) {
  const auto& to = params.output;
  const int splits = params.schedule.splits.divisor, output = int(blockIdx.z);
  const SplitRow here = split_row(params);
  const auto& [work, lane, row, first, index] = here;
  collective::wait_for_earlier_kernels();
  if (!here.inside()) return;

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
