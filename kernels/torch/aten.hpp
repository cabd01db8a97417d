// Torch's own operators, through its dispatcher: those that the stable headers have no wrapper of.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "convert.hpp"

namespace splash::torch_ops::aten {

template <size_t kResults, class... Arguments>
std::array<Tensor, kResults> call(const char* name, const char* overload, const Arguments&... arguments) {
  constexpr size_t kSize = sizeof...(Arguments) > kResults ? sizeof...(Arguments) : kResults;
  std::array<StableIValue, kSize> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  std::array<Tensor, kResults> results;
  for (size_t n = 0; n < kResults; ++n) results[n] = torch::stable::detail::to<Tensor>(stack[n]);
  return results;
}

inline Tensor expand(const Tensor& tensor, const std::vector<int64_t>& sizes) {
  return call<1>("aten::expand", "", tensor, sizes, false)[0];
}

/// A view of the tensor's memory.
inline Tensor strided(const Tensor& tensor, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                      int64_t offset) {
  return call<1>("aten::as_strided", "", tensor, sizes, strides, std::optional<int64_t>(offset))[0];
}

/// One after the other along the first dimension.
inline Tensor joined(const std::vector<Tensor>& tensors) { return call<1>("aten::cat", "", tensors, int64_t(0))[0]; }

inline Tensor sorted(const Tensor& tensor) { return call<2>("aten::sort", "", tensor, int64_t(-1), false)[0]; }

/// int32: how many of the sorted numbers lie before each value, or up to it (`right`).
inline Tensor search(const Tensor& sorted, const Tensor& values, bool right) {
  return call<1>("aten::searchsorted", "Tensor", sorted, values, true, right, std::nullopt, std::nullopt)[0];
}

/// The largest number up to each place of the last dimension.
inline Tensor running_max(const Tensor& tensor) { return call<2>("aten::cummax", "", tensor, int64_t(-1))[0]; }

/// The `count` largest numbers of the last dimension, falling.
inline Tensor largest(const Tensor& tensor, int64_t count) {
  return call<2>("aten::topk", "", tensor, count, int64_t(-1), true, true)[0];
}

/// out = a b, in the dtype that they have: Torch's autocast knows the overload without `out` alone.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) { call<1>("aten::bmm", "out", a, b, out); }

}  // namespace splash::torch_ops::aten
