// TMA descriptors of (B, H, N, D) views, and what a view must satisfy to have one.
#pragma once

#include <cute/tensor.hpp>

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// A view as TMA sees it: extents of expanded (stride 0) heads and batches become 1, and `fold_*` = 0 sends every
/// coordinate to it. Strides of dimensions of size 1 are free, so they get a legal value.
struct MapView {
  void* data;
  int rows, head_dim, heads, batch;
  int64_t row_stride, head_stride, batch_stride;
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
  return {view.data,
          int(view.shape[2]),
          int(view.shape[3]),
          one_head ? 1 : int(view.shape[1]),
          one_batch ? 1 : int(view.shape[0]),
          stride(2),
          stride(1),
          stride(0),
          one_head ? 0 : 1,
          one_batch ? 0 : 1};
}

/// Why TMA cannot read the view, and the tensor method whose result it can; reason == nullptr where it can. Element
/// size 2 bytes.
struct Unmappable {
  const char* reason = nullptr;
  const char* remedy = nullptr;
};

inline Unmappable unmappable(const TensorView& view) {
  if (view.shape[3] > 1 && view.stride[3] != 1) return {"its last stride is not 1", "contiguous"};
  if (view.shape[2] > 1 && view.stride[2] == 0) return {"its rows are expanded (stride 0)", "contiguous"};
  for (int d = 0; d < 3; ++d)
    if (view.shape[d] > 1 && (view.stride[d] * 2) % 16) return {"a stride is not a multiple of 16 bytes", "contiguous"};
  for (int d = 0; d < 3; ++d)
    if (view.shape[d] > 1 && view.stride[d] < 0) return {"a stride is negative", "contiguous"};
  if (reinterpret_cast<uintptr_t>(view.data) % 16) return {"its address is not a multiple of 16 bytes", "clone"};
  return {};
}

/// (N, D, H, B), D contiguous.
template <class Element>
auto row_major(const MapView& view) {
  return cute::make_tensor(cute::make_gmem_ptr(static_cast<const Element*>(view.data)),
                           cute::make_shape(view.rows, view.head_dim, view.heads, view.batch),
                           cute::make_stride(view.row_stride, cute::_1{}, view.head_stride, view.batch_stride));
}

/// (D, N, H, B), D contiguous.
template <class Element>
auto column_major(const MapView& view) {
  return cute::make_tensor(cute::make_gmem_ptr(static_cast<const Element*>(view.data)),
                           cute::make_shape(view.head_dim, view.rows, view.heads, view.batch),
                           cute::make_stride(cute::_1{}, view.row_stride, view.head_stride, view.batch_stride));
}

}  // namespace device
SPLASH_NAMESPACE_END
