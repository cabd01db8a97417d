// What test_policies_sm90.cu expects: the CPU's mainloops, which nvcc does not compile.
#pragma once

#include "splash/core/arguments.hpp"
#include "splash/patterns/sliding_window.hpp"

splash::Status expected_forward(const char* normalizer, const splash::patterns::SlidingWindow& window,
                                const splash::ForwardArguments& arguments);
splash::Status expected_backward(const char* normalizer, const splash::patterns::SlidingWindow& window,
                                 const splash::BackwardArguments& arguments);
