#include "kernels/dispatch.hpp"

#include <string>
#include <utility>

#include "kernels/plan.hpp"
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
    if (Status status = step.instance->run(arguments, execution); !status.ok()) return status;
  }
  return {};
}

Status run(const BackwardArguments& problem, const Plan& plan, const Execution& execution) {
  BackwardArguments arguments = problem;
  const TensorView& q = problem.in.q;
  const int64_t bytes = 8 * q.shape[0] * q.shape[1] * q.shape[2];
  if (plan.steps.size() > 1 && bytes && execution.allocate)
    arguments.join.row_stats = execution.allocate(execution.allocate_context, bytes);
  for (const Step& step : plan.steps) {
    lay_out(arguments, step);
    arguments.join.adds_queries = step.adds_queries;
    arguments.join.adds_keys = step.adds_keys;
    if (Status status = step.instance->run(arguments, execution); !status.ok()) return status;
    arguments.join.first = false;
  }
  return {};
}

/// operands: all tensors that instances load or store in tiles.
template <class Arguments, class Check, size_t N>
Status plan_and_run(Pass pass, const Arguments& arguments, const Operand (&operands)[N], const char* name, Arch arch,
                    const Execution& execution, Check check) {
  const NormalizerInfo* normalizer = general_normalizer(name);
  if (!normalizer) return report(StatusCode::invalid_value, join("unknown normalizer ", name));
  if (Fault fault = check(arguments, *normalizer, arch)) return report(std::move(fault));
  Plan plan = plan_attention({pass, arch, arguments.in, *normalizer, operands});
  if (plan.refusal) return report(std::move(plan.refusal));
  return run(arguments, plan, execution);
}

}  // namespace

int saved_statistics(const char* normalizer, Arch arch) {
  const NormalizerInfo* info = general_normalizer(normalizer);
  return info ? info->saved_on(arch) : 0;
}

Status attention_forward(const ForwardArguments& arguments, const char* normalizer, Arch arch,
                         const Execution& execution) {
  const AttentionInputs& in = arguments.in;
  const Operand operands[] = {{"q", &in.q}, {"k", &in.k}, {"v", &in.v}, {"out", &arguments.out}};
  return plan_and_run(Pass::forward, arguments, operands, normalizer, arch, execution, check_forward);
}

Status attention_backward(const BackwardArguments& arguments, const char* normalizer, Arch arch,
                          const Execution& execution) {
  const AttentionInputs& in = arguments.in;
  const Operand operands[] = {{"q", &in.q},
                              {"k", &in.k},
                              {"v", &in.v},
                              {"out", &arguments.out},
                              {"grad_out", &arguments.grad_out},
                              {"grad_q", &arguments.grad_q},
                              {"grad_k", &arguments.grad_k},
                              {"grad_v", &arguments.grad_v}};
  return plan_and_run(Pass::backward, arguments, operands, normalizer, arch, execution, check_backward);
}

}  // namespace splash::kernels
