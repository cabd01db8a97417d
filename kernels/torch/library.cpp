// torch.ops.splash.*: schemas and their boxed kernels. Fakes, autograd and autocast are registered in Python, since the
// stable ABI has none of them.

#include "attention.hpp"
#include "errors.hpp"

namespace splash::torch_ops {
namespace {

/// Arguments of a boxed kernel in the order of the schema. Each is owned by whoever takes it, so all must be taken.
class Arguments {
 public:
  explicit Arguments(const StableIValue* stack) : next_(stack) {}

  template <class T>
  T take() {
    return torch::stable::detail::to<T>(*next_++);
  }

  /// Torch 2.13's own conversion to std::string never frees its temporary.
  std::string take_string() {
    const auto handle = take<StringHandle>();
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    std::string text(data, length);
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }

  /// AOTInductor makes None of an empty list of numbers, and of one of tensors, which may not be optional: torch.func
  /// would not look into it. In exported programs one empty tensor of bools stands for no tensors.
  std::vector<int64_t> take_ints() {
    return take<std::optional<std::vector<int64_t>>>().value_or(std::vector<int64_t>());
  }
  std::vector<Tensor> take_tensors() {
    std::vector<Tensor> tensors = take<std::vector<Tensor>>();
    if (tensors.size() == 1 && tensors[0].numel() == 0 &&
        tensors[0].scalar_type() == torch::headeronly::ScalarType::Bool)
      tensors.clear();
    return tensors;
  }

  ProblemArguments take_problem() {
    ProblemArguments problem;
    problem.pattern = take_string();
    problem.pattern_ints = take_ints();
    problem.pattern_tensors = take_tensors();
    problem.normalizer = take_string();
    problem.normalizer_floats = take<std::vector<double>>();
    problem.normalizer_parameters = take_tensors();
    problem.lengths = take<std::optional<Tensor>>();
    problem.kv_lengths = take<std::optional<Tensor>>();
    problem.cu_seqlens_q = take<std::optional<Tensor>>();
    problem.cu_seqlens_k = take<std::optional<Tensor>>();
    problem.max_seqlen_q = take<int64_t>();
    problem.max_seqlen_k = take<int64_t>();
    problem.q_start = take<int64_t>();
    problem.k_start = take<int64_t>();
    problem.scale = take<double>();
    problem.deterministic = take<bool>();
    return problem;
  }

 private:
  const StableIValue* next_;
};

void return_tensors(StableIValue* stack, const Tensor& a, const Tensor& b, const Tensor& c) {
  stack[0] = torch::stable::detail::from(a);
  stack[1] = torch::stable::detail::from(b);
  stack[2] = torch::stable::detail::from(c);
}

void boxed_forward(StableIValue* stack, uint64_t, uint64_t) {
  Arguments arguments(stack);
  const Tensor q = arguments.take<Tensor>(), k = arguments.take<Tensor>(), v = arguments.take<Tensor>();
  const ProblemArguments problem = arguments.take_problem();
  const ForwardResult result = attention_forward(q, k, v, problem);
  return_tensors(stack, result.out, result.statistic, result.saved);
}

void boxed_backward(StableIValue* stack, uint64_t, uint64_t) {
  Arguments arguments(stack);
  const GradientInputs gradients{arguments.take<Tensor>(), arguments.take<std::optional<Tensor>>()};
  const Tensor q = arguments.take<Tensor>(), k = arguments.take<Tensor>(), v = arguments.take<Tensor>();
  const ForwardResult forward{arguments.take<Tensor>(), arguments.take<Tensor>(), arguments.take<Tensor>()};
  const ProblemArguments problem = arguments.take_problem();
  const Gradients result = attention_backward(gradients, q, k, v, forward, problem);
  return_tensors(stack, result.q, result.k, result.v);
  stack[3] = torch::stable::detail::from(result.parameters);
}

}  // namespace
}  // namespace splash::torch_ops

// A plain int would be specialised by torch.compile: positions and lengths are SymInt, and int64_t here.
#define SPLASH_PROBLEM_SCHEMA                                                                               \
  "str pattern, int[]? pattern_ints, Tensor[] pattern_tensors, str normalizer, float[] normalizer_floats, " \
  "Tensor[] normalizer_parameters, Tensor? lengths, Tensor? kv_lengths, Tensor? cu_seqlens_q, "             \
  "Tensor? cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k, SymInt q_start, SymInt k_start, "        \
  "float scale, bool deterministic"

STABLE_TORCH_LIBRARY(splash, library) {
  library.def("attention_forward(Tensor q, Tensor k, Tensor v, " SPLASH_PROBLEM_SCHEMA
              ") -> (Tensor out, Tensor statistic, Tensor saved)");
  library.def(
      "attention_backward(Tensor grad_out, Tensor? grad_statistic, Tensor q, Tensor k, Tensor v, "
      "Tensor out, Tensor statistic, Tensor saved, " SPLASH_PROBLEM_SCHEMA ") -> (Tensor, Tensor, Tensor, Tensor[])");
}

// One kernel for both keys: the device of q decides, and every other tensor must agree with it.
STABLE_TORCH_LIBRARY_IMPL(splash, CPU, library) {
  library.impl("attention_forward", &splash::torch_ops::guarded<splash::torch_ops::boxed_forward>);
  library.impl("attention_backward", &splash::torch_ops::guarded<splash::torch_ops::boxed_backward>);
}

STABLE_TORCH_LIBRARY_IMPL(splash, CUDA, library) {
  library.impl("attention_forward", &splash::torch_ops::guarded<splash::torch_ops::boxed_forward>);
  library.impl("attention_backward", &splash::torch_ops::guarded<splash::torch_ops::boxed_backward>);
}
