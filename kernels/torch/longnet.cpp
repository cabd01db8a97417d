// torch.ops.splash.longnet_mix: the outputs of LongNet's branches as one.
#include "longnet.hpp"

#include "errors.hpp"
#include "execution.hpp"
#include "kernels/longnet.hpp"

namespace splash::torch_ops {
namespace {

constexpr size_t kNumbers = 3;  ///< of a part: segment, rate, first residue

/// Rows of `dims` - 1 dimensions.
TensorView rows_of(const Tensor& tensor, const Argument& name, int dims, const Device& device) {
  const TensorView view = rows_view(tensor, name, device);
  if (tensor.dim() != dims) value_error(name.text(), " has ", tensor.dim(), " dimensions; expected ", dims);
  return view;
}

/// What both directions read of their arguments.
class Mixture {
 public:
  Mixture(const Tensor& mixed, const std::vector<Tensor>& lses, const std::vector<int64_t>& numbers,
          const Device& device)
      : device_(device), parts_(lses.size()) {
    if (numbers.size() != kNumbers * lses.size())
      value_error("parts has ", numbers.size(), " numbers for ", lses.size(), " log-sum-exps; expected ", kNumbers,
                  " each");
    plain_.mixed = rows_of(mixed, "mixed", 4, device);
    plain_.dtype = plain_.mixed.dtype;
    plain_.head_dim = mixed.size(3);
    const DType real = plain_.dtype == DType::float64 ? DType::float64 : DType::float32;
    for (size_t p = 0; p < parts_.size(); ++p) {
      const int64_t* own = numbers.data() + kNumbers * p;
      parts_[p].segment = own[0];
      parts_[p].rate = own[1];
      parts_[p].first = own[2];
      parts_[p].lse = input_view(lses[p], {"lses", int(p)}, device);
      if (lses[p].dim() != 4) value_error("lses[", p, "] has ", lses[p].dim(), " dimensions; expected 4");
      if (parts_[p].lse.dtype != real) type_error("lses[", p, "] must be ", kernels::name_of(real));
    }
  }

  void set_rows(const std::vector<Tensor>& rows) {
    if (rows.size() != parts_.size()) value_error("outs and lses have different lengths");
    for (size_t p = 0; p < parts_.size(); ++p) {
      parts_[p].rows = rows_of(rows[p], {"outs", int(p)}, 5, device_);
      if (parts_[p].rows.dtype != plain_.dtype) type_error("outs have different dtypes");
      if (rows[p].size(4) != plain_.head_dim) value_error("outs have different head dimensions");
    }
  }

  const LongNetMixture& plain() {
    plain_.parts = parts_.data();
    plain_.count = int(parts_.size());
    return plain_;
  }

 private:
  const Device& device_;
  LongNetMixture plain_;
  std::vector<LongNetPart> parts_;
};

/// Outputs of other strides than the kernels take are copied.
Tensor with_rows(const Tensor& tensor) {
  return has_unit_last_stride(tensor) ? tensor : torch::stable::contiguous(tensor);
}

}  // namespace

Tensor longnet_mix(std::vector<Tensor> outs, std::vector<Tensor> lses, std::vector<int64_t> parts, int64_t heads,
                   int64_t tokens) {
  if (outs.empty()) value_error("outs is empty; expected one tensor a part");
  for (Tensor& out : outs) out = with_rows(out);
  const Device device = device_of(outs[0]);
  if (outs[0].dim() != 5) value_error("outs[0] has ", outs[0].dim(), " dimensions; expected 5");
  if (heads < 0 || tokens < 0) value_error("heads and tokens are ", heads, " and ", tokens, "; expected 0 or more");
  Tensor mixed = torch::stable::new_empty(outs[0], {outs[0].size(0), heads, tokens, outs[0].size(4)});
  const ExecutionScope scope(device, false);
  Mixture mixture(mixed, lses, parts, device);
  mixture.set_rows(outs);
  check(kernels::longnet_mix(mixture.plain(), scope.arch(), scope.execution()));
  return mixed;
}

std::vector<Tensor> longnet_mix_backward(Tensor grad, std::vector<Tensor> lses, std::vector<int64_t> parts) {
  grad = with_rows(grad);
  const Device device = device_of(grad);
  if (grad.dim() != 4) value_error("grad has ", grad.dim(), " dimensions; expected 4");
  const ExecutionScope scope(device, false);
  Mixture mixture(grad, lses, parts, device);
  std::vector<Tensor> rows;
  for (const Tensor& lse : lses)
    rows.push_back(torch::stable::new_empty(grad, {lse.size(0), lse.size(1), lse.size(2), lse.size(3), grad.size(3)}));
  mixture.set_rows(rows);
  check(kernels::longnet_mix_backward(mixture.plain(), scope.arch(), scope.execution()));
  return rows;
}

}  // namespace splash::torch_ops

STABLE_TORCH_LIBRARY_FRAGMENT(splash, library) {
  library.def("longnet_mix(Tensor[] outs, Tensor[] lses, int[] parts, SymInt heads, SymInt tokens) -> Tensor");
  library.def("longnet_mix_backward(Tensor grad, Tensor[] lses, int[] parts) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(splash, CPU, library) {
  library.impl("longnet_mix", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet_mix)>);
  library.impl("longnet_mix_backward",
               &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet_mix_backward)>);
}

STABLE_TORCH_LIBRARY_IMPL(splash, CUDA, library) {
  library.impl("longnet_mix", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet_mix)>);
  library.impl("longnet_mix_backward",
               &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet_mix_backward)>);
}
