// The plan of a call for callers without C++.
#include <string>

#include "kernels/dispatch.hpp"
#include "kernels/plan.hpp"
#include "kernels/read_call.hpp"
#include "kernels/text.hpp"

namespace splash::kernels {
namespace {

Fault read(AttentionInputs& in, const splash_call& call) {
  const bool packed = call.positions.cu_queries != nullptr;
  in.q = packed ? heads_first(call.q) : call.q;
  in.k = packed ? heads_first(call.k) : call.k;
  in.v = packed ? heads_first(call.v) : call.v;
  in.positions = call.positions;
  in.scale = call.scale;
  const auto tensor = [&](size_t n) { return call.tensors[n]; };
  const auto parameter = [&](int n) { return call.parameters[n]; };
  PatternReader reader(call.pattern, {call.ints, size_t(call.num_ints)}, size_t(call.num_tensors), tensor);
  if (Fault fault = reader.read(in.pattern)) return fault;
  return read_normalizer(in.normalizer, call.normalizer, {call.floats, size_t(call.num_floats)},
                         size_t(call.num_parameters), parameter);
}

std::string plan_text(const splash_call& described) {
  Arch arch;
  Pass pass;
  if (!parse_pass(described.pass, pass)) return join("unknown pass ", described.pass);
  if (!parse_arch(described.arch, arch)) return join("unknown arch ", described.arch);
  AttentionInputs in;
  if (Fault fault = read(in, described)) return fault.reason;
  const NormalizerInfo& normalizer = *general_normalizer(described.normalizer);
  if (Fault fault = check_inputs(in, normalizer)) return fault.reason;
  const Operand operands[] = {{"q", &in.q}, {"k", &in.k}, {"v", &in.v}};
  const Call call{pass, arch, in, normalizer, operands};
  return to_string(plan_attention(call), call, described.deterministic, described.learns);
}

}  // namespace
}  // namespace splash::kernels

extern "C" const char* splash_plan(const splash_call* call) { return splash::keep(splash::kernels::plan_text(*call)); }
