// Checks that operators of plain tensors share.
#pragma once

#include <string>

#include "kernels/registry.hpp"

namespace splash::kernels {

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
