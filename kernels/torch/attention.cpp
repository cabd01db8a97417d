#include "attention.hpp"

#include <initializer_list>
#include <vector>

#include "allocate.hpp"
#include "errors.hpp"
#include "execution.hpp"
#include "kernels/dispatch.hpp"

namespace splash::torch_ops {
namespace {

/// What the kernels of a CUDA device load 16 bytes at a time.
bool is_aligned(const Tensor& tensor) {
  const int64_t step = 16 / int64_t(tensor.element_size());
  for (int64_t d = 0; d + 1 < tensor.dim(); ++d)
    if (tensor.size(d) > 1 && (tensor.stride(d) <= 0 || tensor.stride(d) % step)) return false;
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

/// CUDA loads boxes of rows, so those of a tensor whose rows are expanded (stride 0) get memory of their own; expanded
/// heads and batches are read where they are. The copies, which `in` then views.
std::vector<Tensor> separate_rows(AttentionInputs& in, std::initializer_list<Tensor> tensors,
                                  const ProblemArguments& problem, const Device& device) {
  std::vector<Tensor> copies;
  if (!device.is_cuda()) return copies;
  TensorView* const views[] = {&in.q, &in.k, &in.v};
  for (size_t n = 0; n < tensors.size(); ++n) {
    TensorView& view = *views[n];
    if (view.rank != 4 || view.shape[2] <= 1 || view.stride[2] != 0) continue;
    copies.push_back(torch::stable::contiguous(tensors.begin()[n]));
    view = heads_first(input_view(copies.back(), "a copy", device), problem);
  }
  return copies;
}

/// Autograd hands over gradients of any strides, expanded ones among them.
Tensor usable_gradient(const Tensor& gradient, const Device& device) {
  if (!gradient.defined()) return gradient;
  if (!has_unit_last_stride(gradient)) return torch::stable::contiguous(gradient);
  if (device.is_cpu() || is_aligned(gradient)) return gradient;
  return gradient.is_contiguous() ? torch::stable::clone(gradient) : torch::stable::contiguous(gradient);
}

}  // namespace

ForwardResult attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const ProblemArguments& problem) {
  const Device device = device_of(q);
  ForwardArguments forward;
  forward.in = attention_inputs(q, k, v, problem, device);
  const TensorView& view = forward.in.q;
  if (view.rank != 4) value_error("q has ", view.rank, " dimensions; expected 4 (batch, heads, queries, head_dim)");
  const ExecutionScope scope(device, problem.deterministic);
  const std::vector<Tensor> copies = separate_rows(forward.in, {q, k, v}, problem, device);

  const DType real = view.dtype == DType::float64 ? DType::float64 : DType::float32;
  const int64_t saved = kernels::saved_statistics(problem.normalizer.c_str(), scope.arch());
  ForwardResult result{
      allocate_like(q, input_view(q, "q", device), device),
      allocate({view.shape[0], view.shape[1], view.shape[2]}, real, device),
      allocate({saved, view.shape[0], view.shape[1], view.shape[2]}, real, device),
  };
  forward.out = heads_first(output_view(result.out), problem);
  forward.statistic = output_view(result.statistic);
  forward.saved = output_view(result.saved);
  check(kernels::attention_forward(forward, problem.normalizer.c_str(), scope.arch(), scope.execution()));
  return result;
}

Gradients attention_backward(const GradientInputs& gradients, const Tensor& q, const Tensor& k, const Tensor& v,
                             const ForwardResult& forward, const ProblemArguments& problem) {
  const Device device = device_of(q);
  BackwardArguments backward;
  backward.in = attention_inputs(q, k, v, problem, device);
  backward.out = heads_first(input_view(forward.out, "out", device), problem);
  backward.statistic = input_view(forward.statistic, "statistic", device);
  backward.saved = input_view(forward.saved, "saved", device);
  const ExecutionScope scope(device, problem.deterministic);
  const std::vector<Tensor> copies = separate_rows(backward.in, {q, k, v}, problem, device);

  const Tensor grad_out = usable_gradient(gradients.grad_out, device);
  backward.grad_out = heads_first(input_view(grad_out, "grad_out", device), problem);
  std::optional<Tensor> grad_statistic;
  if (gradients.grad_statistic) {
    grad_statistic = *gradients.grad_statistic;
    if (grad_statistic->defined()) grad_statistic = torch::stable::contiguous(*grad_statistic);
    backward.grad_statistic = input_view(*grad_statistic, "grad_statistic", device);
  }

  const auto like = [&](const Tensor& tensor, const char* name) {
    return allocate_like(tensor, input_view(tensor, name, device), device);
  };
  Gradients result{like(q, "q"), like(k, "k"), like(v, "v"), {}};
  for (size_t p = 0; p < problem.normalizer_parameters.size(); ++p) {
    const Tensor& parameter = problem.normalizer_parameters[p];
    result.parameters.push_back(torch::stable::new_empty(parameter, parameter.sizes()));
    backward.grad_parameters[p] = output_view(result.parameters.back());
  }
  backward.grad_q = heads_first(output_view(result.q), problem);
  backward.grad_k = heads_first(output_view(result.k), problem);
  backward.grad_v = heads_first(output_view(result.v), problem);
  check(kernels::attention_backward(backward, problem.normalizer.c_str(), scope.arch(), scope.execution()));
  return result;
}

}  // namespace splash::torch_ops
