// The hooks of normalizers that the CPU mainloops call: all of them.
#pragma once

#include "splash/normalizers/hooks.hpp"
#include "splash/patterns/hooks.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

inline constexpr normalizers::ForwardHooks kForwardHooks{.score_sweeps = true,
                                                         .rescales = true,
                                                         .saved = true,
                                                         .head = true,
                                                         .position = true,
                                                         .column = true,
                                                         .bias = true};

inline constexpr normalizers::BackwardHooks kBackwardHooks{.sweeps = true,
                                                           .saved = true,
                                                           .head = true,
                                                           .position = true,
                                                           .column = true,
                                                           .bias = true,
                                                           .row_gradients = kMaxParameters};

}  // namespace cpu
SPLASH_NAMESPACE_END
