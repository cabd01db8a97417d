// How refusals reach the caller.
#pragma once

#include <string>
#include <utility>

#include "kernels/registry.hpp"

namespace splash::kernels {

/// The reason stays readable until this thread's next one.
inline Status report(StatusCode code, std::string reason) {
  thread_local std::string kept;
  kept = std::move(reason);
  return {code, kept.c_str()};
}

/// Of functions of plain tensors, which take every floating-point dtype.
inline Status check_dtype(DType dtype) {
  switch (dtype) {
    case DType::float16:
    case DType::bfloat16:
    case DType::float32:
    case DType::float64:
      return {};
    default:
      return report(StatusCode::invalid_type,
                    std::string("dtype is ") + name_of(dtype) + "; expected float16, bfloat16, float32 or float64");
  }
}

}  // namespace splash::kernels
