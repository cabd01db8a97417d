// torch.ops.splash.entmax_*: entmax along one dimension of a tensor of any rank and strides.
#include "kernels/entmax_rows.hpp"

#include <algorithm>

#include "errors.hpp"
#include "execution.hpp"

namespace splash::torch_ops {
namespace {

using torch::headeronly::ScalarType;

DType dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    default:
      type_error(name, " has a dtype that is not supported; expected float16, bfloat16, float32 or float64");
  }
}

/// A tensor without dimensions is one number.
RowShape rows_along(const Tensor& tensor, int64_t dim) {
  const int64_t rank = tensor.dim();
  const int64_t known = rank > 0 ? rank : 1;
  if (dim < -known || dim >= known)
    value_error("dim is ", dim, "; a tensor of ", rank, " dimensions has ", -known, " to ", known - 1);
  if (rank == 0) return {1, 1, 1};
  const int64_t along = dim < 0 ? dim + rank : dim;
  RowShape rows{1, tensor.size(along), 1};
  for (int64_t d = 0; d < along; ++d) rows.outer *= tensor.size(d);
  for (int64_t d = along + 1; d < rank; ++d) rows.inner *= tensor.size(d);
  return rows;
}

void require_alpha(double alpha) {
  if (!(alpha >= 1.01 && alpha <= 2.0)) value_error("alpha is ", alpha, "; expected a number from 1.01 to 2");
}

Tensor entmax_forward(Tensor x, double alpha, int64_t dim) {
  const Device device = device_of(x);
  require_alpha(alpha);
  EntmaxRowsForward rows{rows_along(x, dim), dtype_of(x, "x"), alpha};
  const ExecutionScope scope(device, false);
  const Tensor source = torch::stable::contiguous(x);
  Tensor p = torch::stable::new_empty(x, x.sizes());
  rows.x = source.const_data_ptr();
  rows.p = p.mutable_data_ptr();
  check(kernels::entmax_rows_forward(rows, scope.arch(), scope.execution()));
  return p;
}

Tensor entmax_backward(Tensor grad, Tensor p, double alpha, int64_t dim) {
  const Device device = device_of(p);
  require_alpha(alpha);
  EntmaxRowsBackward rows{rows_along(p, dim), dtype_of(p, "p"), alpha};
  if (device_of(grad) != device) value_error("grad is on another device than p");
  if (grad.scalar_type() != p.scalar_type()) type_error("grad and p have different dtypes");
  if (!std::ranges::equal(grad.sizes(), p.sizes())) value_error("grad and p have different shapes");
  const ExecutionScope scope(device, false);
  const Tensor gradient = torch::stable::contiguous(grad), weights = torch::stable::contiguous(p);
  Tensor grad_x = torch::stable::new_empty(p, p.sizes());
  rows.grad = gradient.const_data_ptr();
  rows.p = weights.const_data_ptr();
  rows.grad_x = grad_x.mutable_data_ptr();
  check(kernels::entmax_rows_backward(rows, scope.arch(), scope.execution()));
  return grad_x;
}

}  // namespace
}  // namespace splash::torch_ops

STABLE_TORCH_LIBRARY_FRAGMENT(splash, library) {
  library.def("entmax_forward(Tensor x, float alpha, int dim) -> Tensor");
  library.def("entmax_backward(Tensor grad, Tensor p, float alpha, int dim) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(splash, CPU, library) {
  library.impl("entmax_forward", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::entmax_forward)>);
  library.impl("entmax_backward", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::entmax_backward)>);
}

STABLE_TORCH_LIBRARY_IMPL(splash, CUDA, library) {
  library.impl("entmax_forward", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::entmax_forward)>);
  library.impl("entmax_backward", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::entmax_backward)>);
}
