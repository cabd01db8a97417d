// Errors of the operators. Torch carries a text and nothing else (Python sees a RuntimeError), so the class is written
// in front of it and splash_attention._errors.translate raises the right one.
#pragma once

#include <stdexcept>

#include "kernels/text.hpp"
#include "splash/core/arguments.hpp"
#include "stable.hpp"

namespace splash::torch_ops {

template <class... Parts>
[[noreturn]] void raise(const char* kind, const Parts&... parts) {
  throw std::runtime_error(kernels::join("splash.", kind, ": ", parts...));
}

template <class... Parts>
[[noreturn]] void value_error(const Parts&... parts) {
  raise("ValueError", parts...);
}

template <class... Parts>
[[noreturn]] void type_error(const Parts&... parts) {
  raise("TypeError", parts...);
}

/// Raises what a host call of libsplash reports.
void check(const Status& status);

using BoxedKernel = void(StableIValue* stack, uint64_t inputs, uint64_t outputs);

/// Runs the kernel. What it threw as a text that stays readable until this thread's next one; nullptr where it did not.
const char* caught(BoxedKernel* kernel, StableIValue* stack, uint64_t inputs, uint64_t outputs) noexcept;

/// The kernel as Torch may call it. No exception of this library leaves it: one copy of the C++ runtime may not be able
/// to unwind what another one threw, so Torch throws its own. Nothing in this frame needs unwinding.
template <BoxedKernel* Kernel>
void guarded(StableIValue* stack, uint64_t inputs, uint64_t outputs) {
  if (const char* text = caught(Kernel, stack, inputs, outputs)) aoti_torch_check(false, "splash", "", 0, text);
}

}  // namespace splash::torch_ops
