// LongNet's mixture: the entry points, on every device that this build serves.
#pragma once

#include "registry.hpp"
#include "splash/core/longnet.hpp"

namespace splash::kernels {

/// invalid_value, invalid_type and no_kernel come back with a reason before anything was computed.
SPLASH_API Status longnet_mix(const LongNetMixture& mixture, Arch arch, const Execution& execution);
SPLASH_API Status longnet_mix_backward(const LongNetMixture& mixture, Arch arch, const Execution& execution);

}  // namespace splash::kernels
