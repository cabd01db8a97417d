// Torch tensors and argument lists become the plain structs of core/arguments.hpp. Refused here is what a struct cannot
// express (undefined, sparse, foreign device or dtype, too many of anything); libsplash checks how the rest fits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "splash/core/arguments.hpp"
#include "stable.hpp"

namespace splash::torch_ops {

using torch::stable::Tensor;

struct Device {
  int32_t type = 0;  ///< as the C shim numbers them
  int32_t index = 0;

  bool is_cpu() const { return type == aoti_torch_device_type_cpu(); }
  bool is_cuda() const { return type == aoti_torch_device_type_cuda(); }
  bool operator==(const Device&) const = default;
};

/// The device of the call: that of q. ValueError where it is neither the CPU nor CUDA.
Device device_of(const Tensor& q);

/// As the C shim numbers it.
int32_t torch_dtype(DType dtype);

/// What an error text calls an argument: its name, and its place where that is a list's.
struct Argument {
  const char* name;
  int place = -1;

  Argument(const char* name, int place = -1) : name(name), place(place) {}
  std::string text() const;
};

/// A tensor that is read. Strides that no element needs (dimensions of size 1, empty tensors) become contiguous ones.
TensorView input_view(const Tensor& tensor, const Argument& name, const Device& device);

/// A tensor of rows of a unit stride, that is read or, where it was allocated for a result, written: its dimensions but
/// for the last.
TensorView rows_view(const Tensor& tensor, const Argument& name, const Device& device);

/// A tensor that was allocated for a result.
TensorView output_view(const Tensor& tensor);

/// True where the last stride is 1 or does not matter.
bool has_unit_last_stride(const Tensor& tensor);

/// What both operators take, from `pattern` to `deterministic` of their schemas.
struct ProblemArguments {
  std::string pattern;
  std::vector<int64_t> pattern_ints;
  std::vector<Tensor> pattern_tensors;
  std::string normalizer;
  std::vector<double> normalizer_floats;
  std::vector<Tensor> normalizer_parameters;
  std::optional<Tensor> lengths, kv_lengths;
  std::optional<Tensor> cu_seqlens_q, cu_seqlens_k;
  int64_t max_seqlen_q = 0, max_seqlen_k = 0;
  int64_t q_start = 0, k_start = 0;
  double scale = 1.0;
  bool deterministic = false;
};

/// A view as the problem reads it: that of packed tokens (T, H, D) becomes (1, H, T, D), and any other one stays.
TensorView heads_first(const TensorView& view, const ProblemArguments& problem);

/// The views point into the tensors, which must outlive them.
AttentionInputs attention_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const ProblemArguments& problem,
                                 const Device& device);

}  // namespace splash::torch_ops
