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

/// What both operators take after their own tensors, by C++ type and name: the one list of which the struct, the
/// schemas and what unpacks a call are made.
#define SPLASH_PROBLEM_ARGUMENTS(ARGUMENT)             \
  ARGUMENT(std::string, pattern)                       \
  ARGUMENT(std::vector<int64_t>, pattern_ints)         \
  ARGUMENT(std::vector<Tensor>, pattern_tensors)       \
  ARGUMENT(std::string, normalizer)                    \
  ARGUMENT(std::vector<double>, normalizer_floats)     \
  ARGUMENT(std::vector<Tensor>, normalizer_parameters) \
  ARGUMENT(std::optional<Tensor>, lengths)             \
  ARGUMENT(std::optional<Tensor>, kv_lengths)          \
  ARGUMENT(std::optional<Tensor>, cu_seqlens_q)        \
  ARGUMENT(std::optional<Tensor>, cu_seqlens_k)        \
  ARGUMENT(int64_t, max_seqlen_q)                      \
  ARGUMENT(int64_t, max_seqlen_k)                      \
  ARGUMENT(int64_t, q_start)                           \
  ARGUMENT(int64_t, k_start)                           \
  ARGUMENT(double, scale)                              \
  ARGUMENT(bool, deterministic)

struct ProblemArguments {
#define SPLASH_MEMBER(type, name) type name{};
  SPLASH_PROBLEM_ARGUMENTS(SPLASH_MEMBER)
#undef SPLASH_MEMBER
};

/// A view as the problem reads it: that of packed tokens (T, H, D) becomes (1, H, T, D), and any other one stays.
TensorView heads_first(const TensorView& view, const ProblemArguments& problem);

/// The views point into the tensors, which must outlive them.
AttentionInputs attention_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const ProblemArguments& problem,
                                 const Device& device);

}  // namespace splash::torch_ops
