// Memory from Torch's allocator: results, and the workspace of a call. Tensors are made without Torch's dispatcher,
// which would cost a call more than its checks do.
#pragma once

#include <initializer_list>
#include <vector>

#include "convert.hpp"

namespace splash::torch_ops {

/// Uninitialised and contiguous.
Tensor allocate(std::initializer_list<int64_t> shape, DType dtype, const Device& device);

/// Uninitialised, dense, in the order of the tensor's strides as far as that order ends with the last dimension.
/// `view`: of the tensor.
Tensor allocate_like(const Tensor& tensor, const TensorView& view, const Device& device);

/// Device memory that lives as long as this does. The caching allocator hands it out again in the order of the stream,
/// so it may go when all work has been launched.
class Workspace {
 public:
  explicit Workspace(const Device& device) : device_(device) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// As Execution::allocate: nullptr where Torch has no memory left.
  static void* allocate(void* workspace, int64_t bytes) noexcept;

 private:
  Device device_;
  std::vector<Tensor> blocks_;
};

}  // namespace splash::torch_ops
