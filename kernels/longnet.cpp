#include "kernels/longnet.hpp"

#include <string>

#include "kernels/longnet_functions.hpp"
#include "kernels/report.hpp"
#include "kernels/table.hpp"
#include "kernels/text.hpp"
#include "splash/patterns/longnet.hpp"

namespace splash::kernels {
namespace {

constexpr int64_t kMaxPosition = int64_t(1) << 29;

Status invalid(int part, const std::string& what) {
  return report(StatusCode::invalid_value, join("part ", part, " ", what));
}

/// A part has the rows that its branch says, so that no token is looked for outside of it.
Status check_part(const LongNetMixture& mixture, int n) {
  const LongNetPart& part = mixture.parts[n];
  const auto within = [](int64_t number) { return number >= 1 && number < kMaxPosition; };
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
    if (mixture.mixed.shape[d] >= kMaxPosition)
      return report(StatusCode::invalid_value, "the mixture has 2**29 tokens or more");
  for (int n = 0; n < mixture.count; ++n)
    if (const Status status = check_part(mixture, n); !status.ok()) return status;
  return {};
}

/// Empty where this build has nothing for the architecture.
instances::LongNetFunctions functions(Arch arch, DType dtype) {
  using namespace instances;
#if defined(__x86_64__)
  if (arch == Arch::cpu) return pick(isa_v2::longnet, isa_v3::longnet, isa_v4::longnet)(dtype);
#else
  if (arch == Arch::cpu) return isa_generic::longnet(dtype);
#endif
#if defined(SPLASH_WITH_CUDA)
  if (arch == Arch::sm90) return sm90::longnet(dtype);
#endif
  return {};
}

Status no_kernel(const LongNetMixture& mixture, Arch arch) {
  std::string text =
      std::string("no compiled instance for LongNet's mixture of ") + name_of(mixture.dtype) + " on " + name_of(arch);
  return report(StatusCode::no_kernel, text + "; the nearest one is on cpu (arch differs)");
}

}  // namespace

Status longnet_mix(const LongNetMixture& mixture, Arch arch, const Execution& execution) {
  if (const Status status = check(mixture); !status.ok()) return status;
  const auto function = functions(arch, mixture.dtype).forward;
  return function ? function(mixture, execution) : no_kernel(mixture, arch);
}

Status longnet_mix_backward(const LongNetMixture& mixture, Arch arch, const Execution& execution) {
  if (const Status status = check(mixture); !status.ok()) return status;
  const auto function = functions(arch, mixture.dtype).backward;
  return function ? function(mixture, execution) : no_kernel(mixture, arch);
}

}  // namespace splash::kernels
