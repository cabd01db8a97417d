// Work of many items that know nothing of each other on CUDA: its launch, asynchronous.
#pragma once

#include "splash/device/launch.hpp"
#include "splash/kernel/each.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// work(n) for n in [0, work.count()).
template <class Work>
Status each(const Work& work, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 1 << 16;
  const int64_t blocks = (work.count() + kernel::kEachThreads - 1) / kernel::kEachThreads;
  if (blocks == 0) return {};
  kernel::each<<<unsigned(blocks < kMostBlocks ? blocks : kMostBlocks), kernel::kEachThreads, 0, stream>>>(work);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? Status{} : failure(error);
}

}  // namespace device
SPLASH_NAMESPACE_END
