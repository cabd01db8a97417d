// What the compiler is told beside the program, by name: what it shall form anew, keep in order, or leave where it is.
#pragma once

#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// The compiler no longer knows the values: what hangs on them is formed anew where it is used, instead of being kept
/// in a register.
template <class... Values>
__device__ __forceinline__ void forget(Values&... values) {
  (..., [&] { asm volatile("" : "+r"(values)); }());
}

/// Memory changes here in ways that the compiler does not see.
__device__ __forceinline__ void forget_memory() { asm volatile("" ::: "memory"); }

/// Programmatic dependent launch: the kernels before this one have ended, and what they wrote is seen.
__device__ __forceinline__ void wait_for_earlier_kernels() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// The kernel after this one may come onto multiprocessors that this one leaves.
__device__ __forceinline__ void let_next_kernel_begin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace collective
SPLASH_NAMESPACE_END
