// Host checks of a problem as data: whatever passes them is safe to run.
#pragma once

#include <string>

#include "kernels/registry.hpp"

namespace splash::kernels {

/// An empty reason means that the check passed.
struct Fault {
  StatusCode code = StatusCode::ok;
  std::string reason;
  explicit operator bool() const { return code != StatusCode::ok; }
};

Fault check_inputs(const AttentionInputs& in, const NormalizerInfo& normalizer);
Fault check_forward(const ForwardArguments& arguments, const NormalizerInfo& normalizer);
Fault check_backward(const BackwardArguments& arguments, const NormalizerInfo& normalizer);

}  // namespace splash::kernels
