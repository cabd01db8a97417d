// A row whose columns were split into ranges, as the kernels find it that put the ranges together: one warp a row,
// always in the order of the columns, so that results repeat bit for bit.
#pragma once

#include <cuda_runtime.h>

#include "splash/collective/work.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

struct SplitRow {
  collective::WorkTile work;
  int lane, row;  ///< of the warp, of the tile
  int first;      ///< of the split items that the row has, one a range
  int index;      ///< of the row in its problem

  __device__ __forceinline__ bool inside() const { return index < work.row_count; }
};

/// That of this warp in a grid of (tiles, tile rows / warps). params: geometry, schedule and tile_rows.
template <class Params>
__device__ __forceinline__ SplitRow split_row(const Params& params) {
  SplitRow found;
  found.lane = int(threadIdx.x) & 31;
  found.row = int(blockIdx.y) * int(blockDim.x / 32) + int(threadIdx.x) / 32;
  found.first = int(blockIdx.x) * params.schedule.splits.divisor;
  collective::make_work_tile(found.work, params.geometry, params.schedule, params.tile_rows,
                             params.schedule.first_split_item + found.first);
  found.index = found.work.row_begin + found.row;
  return found;
}

}  // namespace kernel
SPLASH_NAMESPACE_END
