// Tensors of patterns that hold something for every batch entry and query head, or one of it for all.
#pragma once

#include <initializer_list>

#include "splash/core/frame.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// An int32 tensor (B|1, Hq|1, ...) whose later dimensions are contiguous.
struct PerHead {
  const int32_t* data = nullptr;
  int64_t stride_batch = 0, stride_head = 0;

  static SPLASH_HD PerHead of(const TensorView& view) {
    return {static_cast<const int32_t*>(view.data), view.shape[0] == 1 ? 0 : view.stride[0],
            view.shape[1] == 1 ? 0 : view.stride[1]};
  }

  /// What batch entry and head of the frame have.
  SPLASH_HD const int32_t* at(const Frame& frame) const {
    return data + uint32_t(frame.batch) * stride_batch + uint32_t(frame.head) * stride_head;
  }

  /// Whether a tensor is int32, contiguous and (B|1, Hq|1, rest...). Packed sequences are batch entries.
  static bool fits(const TensorView& view, const AttentionInputs& in, std::initializer_list<int64_t> rest) {
    const int64_t batch = in.positions.cu_queries ? in.positions.sequences : in.q.shape[0];
    if (view.dtype != DType::int32 || view.rank != int(2 + rest.size())) return false;
    if ((view.shape[0] != 1 && view.shape[0] != batch) || (view.shape[1] != 1 && view.shape[1] != in.q.shape[1]))
      return false;
    int dimension = 2;
    for (const int64_t extent : rest)
      if (view.shape[dimension++] != extent) return false;
    return contiguous(view);
  }

  static bool contiguous(const TensorView& view) {
    int64_t stride = 1;
    for (int d = view.rank - 1; d >= 0; stride *= view.shape[d--])
      if (view.shape[d] > 1 && view.stride[d] != stride) return false;
    return true;
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
