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

/// Of a problem that check_inputs lets pass; it stays as it is.
SPLASH_API Plan plan_attention(Pass pass, Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer);

/// A line a step: what it is about, and the instance that runs it; or why there is none.
SPLASH_API std::string to_string(const Plan& plan);

}  // namespace splash::kernels
