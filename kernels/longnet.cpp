#include "kernels/longnet.hpp"

#include <string>

#include "kernels/tensors.hpp"
#include "kernels/text.hpp"
#include "splash/core/frame.hpp"
#include "splash/patterns/longnet.hpp"

namespace splash::kernels {
namespace {

Status invalid(int part, const std::string& what) {
  return report(StatusCode::invalid_value, join("part ", part, " ", what));
}

/// A part has the rows that its branch says, so that no token is looked for outside of it.
Status check_part(const LongNetMixture& mixture, int n) {
  const LongNetPart& part = mixture.parts[n];
  const auto within = [](int64_t number) { return number >= 1 && number <= kMaxPosition; };
  if (!within(part.segment) || !within(part.rate))
    return invalid(n, "has a segment or a rate outside of 1 to 2**29 - 1");
  const int64_t heads = mixture.mixed.shape[1], residues = part.rows.shape[1];
  if (part.first < 0 || residues < 1 || part.first > part.rate - residues || part.first > heads - residues)
    return invalid(n, "has heads that there are not");
  for (int d = 0; d < 4; ++d)
    if (part.lse.shape[d] != part.rows.shape[d]) return invalid(n, "has rows and log-sum-exps of different shapes");
  if (part.rows.shape[0] != mixture.mixed.shape[0]) return invalid(n, "has another batch than the mixture");
  for (int64_t residue = part.first; residue < part.first + residues; ++residue) {
    const patterns::LongNetTokens tokens(int(part.segment), int(part.rate), int(residue));
    if (part.rows.shape[2] != (heads - residue + part.rate - 1) / part.rate ||
        part.rows.shape[3] != tokens.count(int(mixture.mixed.shape[2])))
      return invalid(n, "has other heads or tokens than its branch");
  }
  return {};
}

Status check(const LongNetMixture& mixture) {
  if (const Status status = check_dtype(mixture.dtype); !status.ok()) return status;
  for (int d = 0; d < 3; ++d)
    if (mixture.mixed.shape[d] > kMaxPosition)
      return report(StatusCode::invalid_value, "the mixture has 2**29 tokens or more");
  for (int n = 0; n < mixture.count; ++n)
    if (const Status status = check_part(mixture, n); !status.ok()) return status;
  return {};
}

Status run(Pass pass, const LongNetMixture& mixture, Arch arch, const Execution& execution) {
  if (const Status status = check(mixture); !status.ok()) return status;
  return run_of_tensors(Op::longnet_mix, pass, mixture, arch, execution);
}

}  // namespace

Status longnet_mix(const LongNetMixture& mixture, Arch arch, const Execution& execution) {
  return run(Pass::forward, mixture, arch, execution);
}

Status longnet_mix_backward(const LongNetMixture& mixture, Arch arch, const Execution& execution) {
  return run(Pass::backward, mixture, arch, execution);
}

}  // namespace splash::kernels
