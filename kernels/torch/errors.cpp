#include "errors.hpp"

#include <exception>
#include <string>

// Of Torch 2.13 and later; null where the Torch that is loaded has none.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace splash::torch_ops {

void fail_torch_call(const char* call) {
  const char* what =
      torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : nullptr;
  throw std::runtime_error(what && *what ? kernels::join(what, " (Torch's ", call, ")")
                                         : kernels::join("Torch's ", call, " failed"));
}

void fail_torch_check(const char* condition) {
  throw std::runtime_error(kernels::join("a call of Torch expected ", condition));
}

void check(const Status& status) {
  switch (status.code) {
    case StatusCode::ok:
      return;
    case StatusCode::invalid_value:
      value_error(status.reason);
    case StatusCode::invalid_type:
      type_error(status.reason);
    case StatusCode::no_kernel:
      raise("NoKernelError", status.reason);
    case StatusCode::cuda_error:
      raise("CudaError", status.reason);
  }
}

const char* caught(BoxedKernel* kernel, StableIValue* stack, uint64_t inputs, uint64_t outputs) noexcept {
  thread_local std::string kept;
  try {
    kernel(stack, inputs, outputs);
    return nullptr;
  } catch (const std::exception& error) {
    kept = error.what();
  } catch (...) {
    kept = "an unknown exception";
  }
  return kept.c_str();
}

}  // namespace splash::torch_ops
