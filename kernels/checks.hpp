// Host checks of a problem as data: whatever passes them is safe to run.
#pragma once

#include "kernels/registry.hpp"

namespace splash::kernels {

Fault check_inputs(const AttentionInputs& in, const NormalizerInfo& normalizer);
Fault check_forward(const ForwardArguments& arguments, const NormalizerInfo& normalizer, Arch arch);
Fault check_backward(const BackwardArguments& arguments, const NormalizerInfo& normalizer, Arch arch);

}  // namespace splash::kernels
