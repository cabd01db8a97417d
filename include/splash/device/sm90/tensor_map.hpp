// TMA descriptors of (B, H, N, D) views, and what a view must satisfy to have one.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// A view as TMA sees it: extents of expanded (stride 0) heads and batches become 1, and `fold_*` = 0 sends every
/// coordinate to it. Strides of dimensions of size 1 are free, so they get a legal value.
struct MapView {
  char* data;
  int64_t rows, head_dim, heads, batch;
  int64_t row_stride, head_stride, batch_stride;  ///< elements of 2 bytes
  int fold_head, fold_batch;
};

/// No map has empty extents: of an empty view it is one row of `stand_in`, which nothing ever loads.
inline MapView map_view(TensorView view, void* stand_in) {
  if (view.shape[2] == 0) {
    view.data = stand_in;
    view.shape[2] = 1;
  }
  const int64_t any = 64;  // elements: a multiple of 16 bytes in every dtype
  const auto stride = [&](int d) { return view.shape[d] == 1 || view.stride[d] == 0 ? any : view.stride[d]; };
  const bool one_head = view.shape[1] == 1 || view.stride[1] == 0;
  const bool one_batch = view.shape[0] == 1 || view.stride[0] == 0;
  return {static_cast<char*>(view.data),
          view.shape[2],
          view.shape[3],
          one_head ? 1 : view.shape[1],
          one_batch ? 1 : view.shape[0],
          stride(2),
          stride(1),
          stride(0),
          one_head ? 0 : 1,
          one_batch ? 0 : 1};
}

/// cuTensorMapEncodeTiled, found through the runtime, so that nothing links against libcuda; nullptr where the driver
/// has none.
inline auto tensor_map_encoder() {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
      function = nullptr;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  return encode;
}

/// The five dimensions of a map, from the fastest on, and its box. Strides in elements; the first one is 1.
struct MapShape {
  int64_t extent[5], stride[5];
  int box[5];
};

/// swizzle: bytes of a swizzled row, 128 or 64. False where the driver refuses.
inline bool encode_map(CUtensorMap& map, CUtensorMapDataType type, void* data, const MapShape& shape, int swizzle) {
  const auto encode = tensor_map_encoder();
  if (!encode) return false;
  cuuint64_t extents[5], strides[4];
  cuuint32_t box[5], steps[5];
  for (int d = 0; d < 5; ++d) {
    extents[d] = cuuint64_t(shape.extent[d] < 1 ? 1 : shape.extent[d]);
    box[d] = cuuint32_t(shape.box[d]);
    steps[d] = 1;
    if (d > 0) strides[d - 1] = cuuint64_t(shape.stride[d]) * 2;
  }
  return encode(&map, type, 5, data, extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/// Maps (D, class, row of the class, head, batch) of a view whose rows are dealt out to `classes` classes modulo their
/// number: maps[0] of those that have one row more (the first rows % classes), maps[1] of the others. A box takes
/// `box_rows` rows of one class.
inline bool encode_class_maps(CUtensorMap (&maps)[2], CUtensorMapDataType type, const MapView& view, int classes,
                              int box_columns, int box_rows) {
  const int64_t longer = view.rows % classes, rows = view.rows / classes;
  for (int later = 0; later < 2; ++later) {
    const int64_t first = later ? longer : 0, count = later ? classes - longer : longer;
    if (!later && count == 0) continue;
    const int64_t length = later ? rows : rows + 1;
    // Where later classes have no row at all, nothing is ever loaded through their map.
    char* data = view.data + (length > 0 ? first * view.row_stride * 2 : 0);
    const MapShape shape{{view.head_dim, length > 0 ? count : 1, length, view.heads, view.batch},
                         {1, view.row_stride, view.row_stride * classes, view.head_stride, view.batch_stride},
                         {box_columns, 1, box_rows, 1, 1}};
    if (!encode_map(maps[later], type, data, shape, 2 * box_columns)) return false;
  }
  return true;
}

/// Map (D, column of the run, run, head, batch) of a view of keys, whose boxes take `box_rows` columns.
inline bool encode_run_map(CUtensorMap& map, CUtensorMapDataType type, const MapView& view, const KeyRuns& runs,
                           int box_columns, int box_rows) {
  const int along = int(std::min<int64_t>(runs.length, box_rows));
  const MapShape shape{{view.head_dim, runs.length, runs.count / runs.length, view.heads, view.batch},
                       {1, view.row_stride, view.row_stride * runs.step, view.head_stride, view.batch_stride},
                       {box_columns, along, box_rows / along, 1, 1}};
  return encode_map(map, type, view.data + runs.first * view.row_stride * 2, shape, 2 * box_columns);
}

}  // namespace device
SPLASH_NAMESPACE_END
