// Hopper forward on the host: which kernels run a call.
#pragma once

#include "splash/device/sm90/candidates.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// out, statistic and saved are written whole. Asynchronous on exec.stream. Span: what rows the instance
/// is made for. A normalizer of few heavy keys lists the candidates of each row
/// first (candidates.hpp); rows that have too many are left to the sweeps that serve every normalizer.
template <class Pattern, class Normalizer, class Element, int HeadDim, tuning::Spans Span>
Status forward_sm90(const Pattern& pattern, const ForwardArguments& args, const Execution& exec) {
  const TensorView& q = args.in.q;
  const Operand operands[] = {{"q", &q}, {"k", &args.in.k}, {"v", &args.in.v}, {"out", &args.out}};
  if (Fault fault = fits_forward_sm90<Pattern, Normalizer, HeadDim, Span>(operands, args.layout, args.join.accumulate))
    return report(std::move(fault));
  if (q.shape[0] == 0 || q.shape[1] == 0 || q.shape[2] == 0) return {};
  if constexpr (normalizers::kListsCandidates<Normalizer>)
    return list_forward_sm90<Pattern, Normalizer, Element, HeadDim, Span>(pattern, args, exec);
  else
    return sweep_forward_sm90<Pattern, Normalizer, Element, HeadDim, Span>(pattern, args, exec);
}

}  // namespace device
SPLASH_NAMESPACE_END
