// What operators of plain tensors share: they have no plan, but one instance a dtype.
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

/// Of arguments that are right.
template <class Arguments>
Status run_of_tensors(Op op, Pass pass, const Arguments& arguments, Arch arch, const Execution& execution) {
  thread_local Key key;  // of the call before this one, as most are
  thread_local const Instance* instance = nullptr;
  if (!instance || key.op != op || key.pass != pass || key.arch != arch || key.dtype != arguments.dtype) {
    key = {pass, arch, "", "", arguments.dtype, 0, Spans::any, op};
    instance = find(key);
  }
  return instance ? instance->run(arguments, execution) : report(StatusCode::no_kernel, explain(key));
}

}  // namespace splash::kernels
