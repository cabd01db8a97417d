// Torch's stable ABI, by headers of 2.10 or later: the only file that includes them. Their wrappers report a failed
// call by macros that differ between versions and use iostreams (kernels/text.hpp says what is wrong with those); the
// ones below take their place, here and in all wrappers.
#pragma once

#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

namespace splash::torch_ops {

/// Raises a RuntimeError with what Torch itself says of its failed call, where this Torch can tell (from 2.13 on).
[[noreturn]] void fail_torch_call(const char* call);

/// Raises a RuntimeError about what a wrapper of Torch expects.
[[noreturn]] void fail_torch_check(const char* condition);

}  // namespace splash::torch_ops

// In braces, as Torch's are: not every use of them ends with a semicolon.
#undef TORCH_ERROR_CODE_CHECK
#define TORCH_ERROR_CODE_CHECK(call)           \
  if ((call) != TORCH_SUCCESS) {               \
    splash::torch_ops::fail_torch_call(#call); \
  }
#undef STD_TORCH_CHECK
#define STD_TORCH_CHECK(condition, ...)              \
  if (!(condition)) {                                \
    splash::torch_ops::fail_torch_check(#condition); \
  }

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
