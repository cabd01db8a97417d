// What a call launches, decided before anything is: by questions that the host answers from the problem alone.
#pragma once

#include <string>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/parts.hpp"

namespace splash::kernels {

/// One run of an instance, about the scores and in the layout that serve it best.
struct Step {
  Scope scope;
  Hints hints;
  const Instance* instance = nullptr;
  bool keys_alone = false;                       ///< forward: the normalizer's parameters come in with a later step
  bool accumulate = false;                       ///< forward: it goes on from the outputs of the steps before it
  bool beside = false;                           ///< forward: it and the step before it may run at a time
  bool adds_queries = false, adds_keys = false;  ///< backward: it adds to the gradients of the steps before it
};

/// The steps in their order; none where there is a refusal.
struct Plan {
  std::vector<Step> steps;
  Fault refusal;
};

/// The row of a normalizer that knows the range of its numbers; nullptr for an unknown name.
SPLASH_API const NormalizerInfo* general_normalizer(std::string_view name);

/// What a plan is made for. The problem is one that check_inputs lets pass, and stays as it is.
struct Call {
  Pass pass;
  Arch arch;
  const AttentionInputs& in;
  const NormalizerInfo& normalizer;
  std::span<const Operand> operands;  ///< all tensors that its instances load or store in tiles
};

/// Whoever runs the steps meets no refusal: instances were asked whether they fit.
SPLASH_API Plan plan_attention(const Call& call);

/// A line a step: what it is about, the instance that runs it and, of a backward, which of its kernels; or why there is
/// none. learns: the normalizer has parameters that want gradients.
SPLASH_API std::string to_string(const Plan& plan, const Call& call, bool deterministic = false, bool learns = false);

}  // namespace splash::kernels
