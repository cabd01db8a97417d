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

inline MapView map_view(const TensorView& view) {
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

/// Why TMA cannot read the view, or nullptr. Element size 2 bytes.
inline const char* unmappable(const TensorView& view) {
  if (reinterpret_cast<uintptr_t>(view.data) % 16) return "its address is not a multiple of 16 bytes";
  if (view.shape[3] > 1 && view.stride[3] != 1) return "its last stride is not 1";
  if (view.shape[2] > 1 && view.stride[2] == 0) return "its rows are expanded (stride 0)";
  for (int d = 0; d < 3; ++d)
    if (view.shape[d] > 1 && (view.stride[d] * 2) % 16) return "a stride is not a multiple of 16 bytes";
  for (int d = 0; d < 3; ++d)
    if (view.shape[d] > 1 && view.stride[d] < 0) return "a stride is negative";
  return nullptr;
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
