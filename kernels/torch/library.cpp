// torch.ops.splash.*: schemas and their boxed kernels. Fakes, autograd and autocast are registered in Python, since the
// stable ABI has none of them.

#include <type_traits>

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
    if constexpr (std::is_same_v<T, std::string>)
      return take_string();
    else if constexpr (std::is_same_v<T, std::vector<int64_t>>)
      return take_ints();
    else if constexpr (std::is_same_v<T, std::vector<Tensor>>)
      return take_tensors();
    else
      return torch::stable::detail::to<T>(*next_++);
  }

  ProblemArguments take_problem() {
    ProblemArguments problem;
#define SPLASH_TAKE(type, name) problem.name = take<type>();
    SPLASH_PROBLEM_ARGUMENTS(SPLASH_TAKE)
#undef SPLASH_TAKE
    return problem;
  }

 private:
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
    return torch::stable::detail::to<std::optional<std::vector<int64_t>>>(*next_++).value_or(std::vector<int64_t>());
  }
  std::vector<Tensor> take_tensors() {
    auto tensors = torch::stable::detail::to<std::vector<Tensor>>(*next_++);
    if (tensors.size() == 1 && tensors[0].numel() == 0 &&
        tensors[0].scalar_type() == torch::headeronly::ScalarType::Bool)
      tensors.clear();
    return tensors;
  }

  const StableIValue* next_;
};

/// C++ types as schemas spell them.
const char* schema_type(const std::string&) { return "str"; }
const char* schema_type(const std::vector<int64_t>&) { return "int[]?"; }
const char* schema_type(const std::vector<double>&) { return "float[]"; }
const char* schema_type(const std::vector<Tensor>&) { return "Tensor[]"; }
const char* schema_type(const std::optional<Tensor>&) { return "Tensor?"; }
const char* schema_type(int64_t) { return "SymInt"; }  // torch.compile would make one graph for each value of an int
const char* schema_type(double) { return "float"; }
const char* schema_type(bool) { return "bool"; }

std::string problem_schema() {
  const ProblemArguments problem;
  std::string text;
#define SPLASH_DECLARE(type, name) \
  text.append(text.empty() ? "" : ", ").append(schema_type(problem.name)).append(" " #name);
  SPLASH_PROBLEM_ARGUMENTS(SPLASH_DECLARE)
#undef SPLASH_DECLARE
  return text;
}

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

STABLE_TORCH_LIBRARY(splash, library) {
  const std::string problem = splash::torch_ops::problem_schema();
  library.def(("attention_forward(Tensor q, Tensor k, Tensor v, " + problem +
               ") -> (Tensor out, Tensor statistic, Tensor saved)")
                  .c_str());
  library.def(("attention_backward(Tensor grad_out, Tensor? grad_statistic, Tensor q, Tensor k, Tensor v, Tensor out, "
               "Tensor statistic, Tensor saved, " +
               problem + ") -> (Tensor, Tensor, Tensor, Tensor[])")
                  .c_str());
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
