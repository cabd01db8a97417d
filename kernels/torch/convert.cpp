#include "convert.hpp"

#include <algorithm>
#include <utility>

#include "errors.hpp"
#include "kernels/read_call.hpp"

namespace splash::torch_ops {
namespace {

using kernels::name_of;

std::string name_of(const Device& device) {
  if (device.is_cpu()) return "cpu";
  if (device.is_cuda()) return kernels::join("cuda:", device.index);
  return kernels::join("device type ", device.type, ":", device.index);
}

Device own_device(const Tensor& tensor) {
  Device device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device.type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &device.index));
  if (device.is_cpu()) device.index = 0;
  return device;
}

constexpr struct {
  DType own;
  int32_t (*of_torch)();
} kDTypes[] = {
    {DType::float16, aoti_torch_dtype_float16}, {DType::bfloat16, aoti_torch_dtype_bfloat16},
    {DType::float32, aoti_torch_dtype_float32}, {DType::float64, aoti_torch_dtype_float64},
    {DType::int32, aoti_torch_dtype_int32},     {DType::int64, aoti_torch_dtype_int64},
    {DType::boolean, aoti_torch_dtype_bool},
};

std::optional<DType> dtype_of(const Tensor& tensor) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  for (const auto& [own, of_torch] : kDTypes)
    if (of_torch() == dtype) return own;
  return std::nullopt;
}

void require_defined(const Tensor& tensor, const Argument& name) {
  if (!tensor.defined()) value_error(name.text(), " is None; expected a tensor");
}

/// inner: how many of the last dimensions are left out.
TensorView describe(const Tensor& tensor, void* data, DType dtype, int inner = 0) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  const bool empty = std::ranges::find(sizes, 0) != sizes.end();
  TensorView view{data, dtype, int(sizes.size()) - inner};
  int64_t contiguous = 1;
  for (int d = view.rank - 1; d >= 0; --d) {
    view.shape[d] = sizes[d];
    view.stride[d] = empty || sizes[d] == 1 ? contiguous : strides[d];
    contiguous = view.stride[d] * sizes[d];
  }
  return view;
}

PatternSpec pattern_spec(const ProblemArguments& problem, const Device& device) {
  const auto tensor = [&](size_t n) {
    return input_view(problem.pattern_tensors[n], {"pattern_tensors", int(n)}, device);
  };
  kernels::PatternReader reader(problem.pattern, problem.pattern_ints, problem.pattern_tensors.size(), tensor);
  PatternSpec spec;
  if (Fault fault = reader.read(spec)) check(report(std::move(fault)));
  return spec;
}

NormalizerSpec normalizer_spec(const ProblemArguments& problem, const Device& device) {
  const auto parameter = [&](int n) {
    return input_view(problem.normalizer_parameters[size_t(n)], {"normalizer_parameters", n}, device);
  };
  NormalizerSpec spec;
  if (Fault fault = kernels::read_normalizer(spec, problem.normalizer, problem.normalizer_floats,
                                             problem.normalizer_parameters.size(), parameter))
    check(report(std::move(fault)));
  return spec;
}

/// `count` int32 in a row, or nullptr where there are none.
const int32_t* int32_data(const std::optional<Tensor>& tensor, const char* name, int64_t count, const Device& device) {
  if (!tensor) return nullptr;
  const TensorView view = input_view(*tensor, name, device);
  if (view.dtype != DType::int32) type_error(name, " has dtype ", name_of(view.dtype), "; expected int32");
  if (view.rank != 1) value_error(name, " has ", view.rank, " dimensions; expected 1");
  if (view.shape[0] != count) value_error(name, " has ", view.shape[0], " entries; expected ", count);
  if (view.shape[0] > 1 && view.stride[0] != 1) value_error(name, " is not contiguous; use .contiguous()");
  return static_cast<const int32_t*>(view.data);
}

Positions positions(const ProblemArguments& problem, const TensorView& q, const Device& device) {
  Positions all{problem.q_start, problem.k_start};
  all.lengths = int32_data(problem.lengths, "lengths", q.shape[0], device);
  all.kv_lengths = int32_data(problem.kv_lengths, "kv_lengths", q.shape[0], device);
  if (problem.cu_seqlens_q) {
    const int64_t ends = problem.cu_seqlens_q->numel();
    if (ends < 1) value_error("cu_seqlens_q has no entries; expected one more than there are sequences");
    all.sequences = ends - 1;
    all.cu_queries = int32_data(problem.cu_seqlens_q, "cu_seqlens_q", ends, device);
    all.cu_keys = int32_data(problem.cu_seqlens_k, "cu_seqlens_k", ends, device);
    all.max_queries = problem.max_seqlen_q;
    all.max_keys = problem.max_seqlen_k;
  } else if (problem.cu_seqlens_k) {
    value_error("cu_seqlens_k came without cu_seqlens_q; expected both or neither");
  }
  return all;
}

}  // namespace

Device device_of(const Tensor& q) {
  require_defined(q, "q");
  const Device device = own_device(q);
  if (!device.is_cpu() && !device.is_cuda()) value_error("q is on ", name_of(device), "; expected cpu or cuda");
  return device;
}

int32_t torch_dtype(DType dtype) {
  for (const auto& [own, of_torch] : kDTypes)
    if (own == dtype) return of_torch();
  return -1;
}

std::string Argument::text() const { return place < 0 ? name : kernels::join(name, "[", place, "]"); }

namespace {

/// The view that both kinds of inputs are: all dimensions but the `inner` last ones.
TensorView checked_view(const Tensor& tensor, const Argument& name, const Device& device, int inner) {
  require_defined(tensor, name);
  int32_t layout = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(tensor.get(), &layout));
  if (layout != aoti_torch_layout_strided()) type_error(name.text(), " is sparse; expected a dense tensor");
  const Device own = own_device(tensor);
  if (own != device) value_error(name.text(), " is on ", name_of(own), "; expected ", name_of(device), " like q");
  const std::optional<DType> dtype = dtype_of(tensor);
  if (!dtype) {
    type_error(name.text(),
               " has an unknown dtype; known are float16, bfloat16, float32, float64, int32, int64 and bool");
  }
  constexpr int64_t kMaxRank = std::extent_v<decltype(TensorView::shape)>;
  if (tensor.dim() - inner > kMaxRank)
    value_error(name.text(), " has ", tensor.dim(), " dimensions; at most ", kMaxRank + inner, " make sense");
  if (tensor.dim() < inner) value_error(name.text(), " has ", tensor.dim(), " dimensions; expected more");
  return describe(tensor, const_cast<void*>(tensor.const_data_ptr()), *dtype, inner);
}

}  // namespace

TensorView input_view(const Tensor& tensor, const Argument& name, const Device& device) {
  return checked_view(tensor, name, device, 0);
}

TensorView rows_view(const Tensor& tensor, const Argument& name, const Device& device) {
  const TensorView view = checked_view(tensor, name, device, 1);
  if (!has_unit_last_stride(tensor)) value_error(name.text(), " has a last stride other than 1; use .contiguous()");
  return view;
}

TensorView output_view(const Tensor& tensor) { return describe(tensor, tensor.mutable_data_ptr(), *dtype_of(tensor)); }

bool has_unit_last_stride(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return last < 0 || tensor.size(last) <= 1 || tensor.stride(last) == 1;
}

TensorView heads_first(const TensorView& view, const ProblemArguments& problem) {
  return problem.cu_seqlens_q ? kernels::heads_first(view) : view;
}

AttentionInputs attention_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const ProblemArguments& problem,
                                 const Device& device) {
  AttentionInputs in;
  in.q = heads_first(input_view(q, "q", device), problem);
  in.k = heads_first(input_view(k, "k", device), problem);
  in.v = heads_first(input_view(v, "v", device), problem);
  in.pattern = pattern_spec(problem, device);
  in.normalizer = normalizer_spec(problem, device);
  in.positions = positions(problem, in.q, device);
  in.scale = problem.scale;
  return in;
}

}  // namespace splash::torch_ops
