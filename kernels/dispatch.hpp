// From a problem as data to the instance that computes it: checks, simplifies the pattern, chooses the key, runs.
#pragma once

#include "registry.hpp"

namespace splash::kernels {

/// Checks that the views describe one problem (shapes, dtypes, strides, the numbers of pattern and normalizer), folds
/// bands into one sliding window, and runs the instance found. `normalizer` is the public name: "softmax", "entmax".
/// invalid_value, invalid_type and no_kernel come back with a reason before anything was computed. The arguments'
/// pattern is replaced by the folded one.
SPLASH_API Status attention_forward(ForwardArguments& arguments, const char* normalizer, Arch arch,
                                    const Execution& execution);
SPLASH_API Status attention_backward(BackwardArguments& arguments, const char* normalizer, Arch arch,
                                     const Execution& execution);

/// How many statistics beside the first one the forward saves for the backward; 0 for an unknown name,
/// which the two calls refuse.
SPLASH_API int saved_statistics(const char* normalizer);

}  // namespace splash::kernels
