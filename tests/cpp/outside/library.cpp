// The compiled library from plain C++: a causal problem through the dispatcher, and a question about a missing kernel.
#include <cstdio>

#include "../problem.hpp"
#include "splash/kernels/dispatch.hpp"

int main() {
  namespace kernels = splash::kernels;
  Problem problem(60, 60, 1.5);
  splash::ForwardArguments& arguments = problem.forward;
  arguments.statistic = {problem.statistic.data(), splash::DType::float32, 3, {1, 2, 60}, {120, 60, 1}};
  arguments.saved = {problem.saved.data(), splash::DType::float32, 4, {2, 1, 2, 60}, {120, 120, 60, 1}};
  arguments.in.pattern.count = 1;
  arguments.in.pattern.terms[0].kind = kernels::pattern_kind("causal");
  const splash::Status status = kernels::attention_forward(arguments, "entmax", kernels::Arch::cpu, {});
  bool ok = status.ok();
  for (int d = 0; d < Problem::kDim; ++d) ok = ok && problem.output(0, 0)[d] == problem.value(0, 0)[d];
  std::printf("%s, first row %s the first value\n", status.ok() ? "ran" : status.reason, ok ? "is" : "is not");

  const kernels::Key missing{
      kernels::Pass::forward,    kernels::Arch(80), "causal", "softmax", splash::DType::float16, 64,
      splash::tuning::Spans::any};
  std::printf("%s\n", kernels::explain(missing).c_str());
  return ok && !kernels::find(missing) && !kernels::explain(missing).empty() ? 0 : 1;
}
