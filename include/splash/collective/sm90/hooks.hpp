// The hooks of normalizers that the Hopper mainloops call. Includes nothing of CUDA, so that host tests can ask.
#pragma once

#include "splash/normalizers/hooks.hpp"
#include "splash/patterns/hooks.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

inline constexpr normalizers::ForwardHooks kForwardHooksSm90{
    .score_sweeps = true, .rescales = true, .saved = true, .column = true};

/// The one parameter of a normalizer that may learn is a sum over rows of what P dP sums to.
inline constexpr normalizers::BackwardHooks kBackwardHooksSm90{.row_gradients = 1, .row_gradient_of = true};

}  // namespace collective
SPLASH_NAMESPACE_END
