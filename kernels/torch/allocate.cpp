#include "allocate.hpp"

#include <algorithm>
#include <exception>

namespace splash::torch_ops {
namespace {

Tensor allocate_strided(int rank, const int64_t* shape, const int64_t* stride, int32_t dtype, const Device& device) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, shape, stride, dtype, device.type, device.index, &handle));
  return Tensor(handle);
}

/// Strides of a dense tensor whose dimensions lie in memory in the view's order. False where the view does not settle
/// the order (strides that are 0 or equal), and where the last dimension is not the innermost one.
bool dense_strides(const TensorView& view, int64_t (&dense)[4]) {
  int order[4], count = 0;
  for (int d = view.rank - 1; d >= 0; --d) {
    if (view.shape[d] == 0) return false;
    if (view.shape[d] == 1) continue;
    int at = count++;
    for (; at > 0 && view.stride[order[at - 1]] > view.stride[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  int64_t next = 1, previous = 0;
  for (int n = 0; n < count; ++n) {
    const int d = order[n];
    if (view.stride[d] <= previous) return false;
    previous = view.stride[d];
    dense[d] = next;
    next *= view.shape[d];
  }
  for (int d = view.rank - 1; d >= 0; --d)
    if (view.shape[d] == 1) dense[d] = d + 1 < view.rank ? dense[d + 1] * view.shape[d + 1] : 1;
  return view.rank == 0 || dense[view.rank - 1] == 1;
}

}  // namespace

Tensor allocate(std::initializer_list<int64_t> shape, DType dtype, const Device& device) {
  int64_t stride[4];
  const int rank = int(shape.size());
  int64_t next = 1;
  for (int d = rank - 1; d >= 0; --d) {
    stride[d] = next;
    next *= std::max<int64_t>(1, shape.begin()[d]);
  }
  return allocate_strided(rank, shape.begin(), stride, torch_dtype(dtype), device);
}

Tensor allocate_like(const Tensor& tensor, const TensorView& view, const Device& device) {
  int64_t stride[4];
  if (dense_strides(view, stride))
    return allocate_strided(view.rank, view.shape, stride, torch_dtype(view.dtype), device);
  // Torch settles what the strides leave open; where rows overlap, its order may not end with the last dimension.
  Tensor result = torch::stable::empty_like(tensor);
  return has_unit_last_stride(result) ? result : torch::stable::new_empty(tensor, tensor.sizes());
}

void* Workspace::allocate(void* workspace, int64_t bytes) noexcept {
  auto& self = *static_cast<Workspace*>(workspace);
  const int64_t stride = 1;
  try {
    self.blocks_.push_back(allocate_strided(1, &bytes, &stride, aoti_torch_dtype_uint8(), self.device_));
    return self.blocks_.back().mutable_data_ptr();
  } catch (const std::exception&) {
    return nullptr;
  }
}

}  // namespace splash::torch_ops
