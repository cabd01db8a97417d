#include "kernels/dispatch.hpp"

#include <string>
#include <utility>

#include "kernels/plan.hpp"
#include "kernels/report.hpp"
#include "kernels/text.hpp"

namespace splash::kernels {
namespace {

/// The problem of a call as one of its steps is about it.
template <class Arguments>
void lay_out(Arguments& arguments, const Step& step) {
  arguments.in.pattern = step.scope.pattern;
  arguments.layout = step.scope.layout;
  arguments.hints = step.hints;
}

Status run(const ForwardArguments& problem, const Plan& plan, const Execution& execution) {
  ForwardArguments arguments = problem;
  for (const Step& step : plan.steps) {
    lay_out(arguments, step);
    arguments.in.normalizer = step.keys_alone ? NormalizerSpec{} : problem.in.normalizer;
    arguments.join = {step.accumulate, step.beside};
    if (Status status = step.instance->forward(arguments, execution); !status.ok()) return status;
  }
  return {};
}

Status run(const BackwardArguments& problem, const Plan& plan, const Execution& execution) {
  BackwardArguments arguments = problem;
  const TensorView& q = problem.in.q;
  const int64_t bytes = 8 * q.shape[0] * q.shape[1] * q.shape[2];
  if (plan.steps.size() > 1 && bytes && execution.allocate)
    arguments.join.numbers = execution.allocate(execution.allocate_context, bytes);
  for (const Step& step : plan.steps) {
    lay_out(arguments, step);
    arguments.join.adds_queries = step.adds_queries;
    arguments.join.adds_keys = step.adds_keys;
    if (Status status = step.instance->backward(arguments, execution); !status.ok()) return status;
    arguments.join.first = false;
  }
  return {};
}

template <class Arguments, class Check>
Status plan_and_run(Pass pass, const Arguments& arguments, const char* name, Arch arch, const Execution& execution,
                    Check check) {
  const NormalizerInfo* normalizer = general_normalizer(name);
  if (!normalizer) return report(StatusCode::invalid_value, join("unknown normalizer ", name));
  if (Fault fault = check(arguments, *normalizer)) return report(fault.code, std::move(fault.reason));
  Plan plan = plan_attention(pass, arch, arguments.in, *normalizer);
  if (plan.refusal) return report(plan.refusal.code, std::move(plan.refusal.reason));
  return run(arguments, plan, execution);
}

}  // namespace

int saved_statistics(const char* normalizer) {
  const NormalizerInfo* info = general_normalizer(normalizer);
  return info ? info->saved : 0;
}

Status attention_forward(const ForwardArguments& arguments, const char* normalizer, Arch arch,
                         const Execution& execution) {
  return plan_and_run(Pass::forward, arguments, normalizer, arch, execution, check_forward);
}

Status attention_backward(const BackwardArguments& arguments, const char* normalizer, Arch arch,
                          const Execution& execution) {
  return plan_and_run(Pass::backward, arguments, normalizer, arch, execution, check_backward);
}

}  // namespace splash::kernels
