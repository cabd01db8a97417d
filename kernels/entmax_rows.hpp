// Entmax along one dimension of a tensor: the entry points, on every device that this build serves.
#pragma once

#include "registry.hpp"
#include "splash/core/rows.hpp"

namespace splash::kernels {

/// invalid_value, invalid_type and no_kernel come back with a reason before anything was computed.
SPLASH_API Status entmax_rows_forward(const EntmaxRowsForward& arguments, Arch arch, const Execution& execution);
SPLASH_API Status entmax_rows_backward(const EntmaxRowsBackward& arguments, Arch arch, const Execution& execution);

}  // namespace splash::kernels
