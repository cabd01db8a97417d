// From a problem as data to what computes it: checks, plans (plan.hpp), launches.
#pragma once

#include "registry.hpp"

namespace splash::kernels {

/// Checks that the views describe one problem (shapes, dtypes, strides, the numbers of pattern and normalizer), plans,
/// and runs the instances found. `normalizer` is the public name: "softmax", "entmax". invalid_value, invalid_type and
/// no_kernel come back with a reason before anything was launched.
SPLASH_API Status attention_forward(const ForwardArguments& arguments, const char* normalizer, Arch arch,
                                    const Execution& execution);
SPLASH_API Status attention_backward(const BackwardArguments& arguments, const char* normalizer, Arch arch,
                                     const Execution& execution);

/// How many numbers a row beside the statistic the forward saves for the backward; 0 for an unknown name, which the two
/// calls refuse.
SPLASH_API int saved_statistics(const char* normalizer, Arch arch);

}  // namespace splash::kernels
