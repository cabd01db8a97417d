// LongNet's mixture on CUDA on the host: its launch. Asynchronous, without a workspace.
#pragma once

#include <cuda_runtime.h>

#include "splash/kernel/longnet.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

inline constexpr int kLongNetParts = 128;  ///< that fit the parameters of a launch

/// Rows in pieces of 16 bytes where all of them begin at such a multiple.
template <class Element>
bool longnet_aligned(const LongNetMixture& mixture) {
  constexpr int64_t kVector = kernel::kVectorLength<Element>;
  const auto aligned = [](const TensorView& view) {
    bool all = reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
    for (int d = 0; d < view.rank; ++d) all = all && (view.shape[d] <= 1 || view.stride[d] % kVector == 0);
    return all;
  };
  bool all = mixture.head_dim % kVector == 0 && aligned(mixture.mixed);
  for (int p = 0; p < mixture.count; ++p) all = all && aligned(mixture.parts[p].rows);
  return all;
}

template <class Element, int kVector, bool kForward, int kCapacity>
Status launch_longnet(const LongNetMixture& mixture, cudaStream_t stream) {
  const TensorView& mixed = mixture.mixed;
  kernel::LongNetParams<kCapacity> params{};
  params.mixed = mixed;
  params.head_dim = int(mixture.head_dim);
  params.lanes = 1;
  while (params.lanes < 32 && params.lanes * kernel::kLongNetPieces * kVector < params.head_dim) params.lanes *= 2;
  // About two waves of blocks, so that the parts of a head are not sorted out for a few rows only.
  constexpr int64_t kBlocks = 132 * 3 * 2;
  const int64_t at_once = kernel::kLongNetThreads / params.lanes, heads = mixed.shape[0] * mixed.shape[1];
  const int64_t passes = (heads * mixed.shape[2] + at_once * kBlocks - 1) / (at_once * kBlocks);
  params.passes = int(passes < 8 ? passes : passes > 64 ? 64 : (passes + 15) / 16 * 16);
  const int64_t tokens_a_block = at_once * params.passes;
  params.blocks_a_head = int((mixed.shape[2] + tokens_a_block - 1) / tokens_a_block);
  params.count = mixture.count;
  for (int p = 0; p < mixture.count; ++p) params.parts[p] = mixture.parts[p];
  const int64_t blocks = heads * params.blocks_a_head;
  if (blocks > 0x7fffffff) return {StatusCode::invalid_value, "LongNet's mixture has too many rows for one launch"};
  kernel::longnet_mixture<Element, kVector, kForward><<<unsigned(blocks), kernel::kLongNetThreads, 0, stream>>>(params);
  if (cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    return {StatusCode::cuda_error, cudaGetErrorString(error)};
  return {};
}

template <class Element, bool kForward>
Status longnet_mixture(const LongNetMixture& mixture, const Execution& execution) {
  const TensorView& mixed = mixture.mixed;
  if (mixed.shape[0] * mixed.shape[1] * mixed.shape[2] * mixture.head_dim == 0) return {};
  if (mixture.count > kLongNetParts)
    return {StatusCode::invalid_value, "segments: on CUDA their tokens may take at most 128 calls of attention"};
  const auto stream = static_cast<cudaStream_t>(execution.stream);
  const bool aligned = longnet_aligned<Element>(mixture);
  constexpr int kVector = kernel::kVectorLength<Element>, kFew = 8;
  if (mixture.count <= kFew)
    return aligned ? launch_longnet<Element, kVector, kForward, kFew>(mixture, stream)
                   : launch_longnet<Element, 1, kForward, kFew>(mixture, stream);
  return aligned ? launch_longnet<Element, kVector, kForward, kLongNetParts>(mixture, stream)
                 : launch_longnet<Element, 1, kForward, kLongNetParts>(mixture, stream);
}

}  // namespace device
SPLASH_NAMESPACE_END
