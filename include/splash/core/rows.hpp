// Plain data of the row functions: normalizing along one dimension of a tensor, without attention around it.
#pragma once

#include "splash/core/arguments.hpp"

namespace splash {

/// A contiguous tensor seen as (outer, length, inner): entry j of row (o, i) is number (o * length + j) * inner + i.
struct RowShape {
  int64_t outer = 0, length = 0, inner = 1;
};

/// p = entmax(x) along each row, 1 < alpha <= 2. p may be x.
struct EntmaxRowsForward {
  RowShape rows;
  DType dtype = DType::float32;  ///< float16, bfloat16, float32 or float64
  double alpha = 1.5;
  const void* x = nullptr;
  void* p = nullptr;
};

/// grad_x from the gradient with respect to p, and p.
struct EntmaxRowsBackward {
  RowShape rows;
  DType dtype = DType::float32;
  double alpha = 1.5;
  const void* grad = nullptr;
  const void* p = nullptr;
  void* grad_x = nullptr;
};

}  // namespace splash
