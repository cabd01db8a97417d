// Plain data of LongNet's mixture: the outputs of attention over dilated segments, put together token by token.
#pragma once

#include "splash/core/arguments.hpp"

namespace splash {

/// What one attention call computed of a branch (w, r): the heads h with h mod r in [first, first + residues), each at
/// its tokens m * w + h mod r + r * t of the segments m, in rising order.
struct LongNetPart {
  int64_t segment = 1, rate = 1;  ///< w and r
  int64_t first = 0;
  TensorView rows;  ///< (B, residues, heads of a residue, tokens): where a row of head_dim numbers begins
  TensorView lse;   ///< the same shape, float32 (float64 for float64): the log-sum-exp of the row's scores
};

/// Both directions. Forward: `mixed` from the parts, weights in proportion to exp(lse), 0 where no part has the token.
/// Backward: the parts' rows are written, each its weight times the row of `mixed`, the gradient.
struct LongNetMixture {
  DType dtype = DType::float32;  ///< float16, bfloat16, float32 or float64
  int64_t head_dim = 0;
  TensorView mixed;  ///< (B, heads, tokens): where a row of head_dim numbers begins
  const LongNetPart* parts = nullptr;
  int count = 0;
};

}  // namespace splash
