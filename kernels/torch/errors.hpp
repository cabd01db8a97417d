// Errors of the operators. The stable ABI carries a text and nothing else (Python sees a RuntimeError), so the class is
// written in front of it and splash_attention._errors.translate raises the right one.
#pragma once

#include <sstream>
#include <stdexcept>

#include "splash/core/arguments.hpp"

namespace splash::torch_ops {

template <class... Parts>
[[noreturn]] void raise(const char* kind, const Parts&... parts) {
  std::ostringstream text;
  text << "splash." << kind << ": ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
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
inline void check(const Status& status) {
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

}  // namespace splash::torch_ops
