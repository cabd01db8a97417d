// Work of many items that know nothing of each other, a thread an item.
#pragma once

#include <cuda_runtime.h>

#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

inline constexpr int kEachThreads = 128;

template <class Work>
__global__ void __launch_bounds__(kEachThreads) each(const __grid_constant__ Work work) {
  const int64_t count = work.count(), step = int64_t(gridDim.x) * kEachThreads;
  for (int64_t n = int64_t(blockIdx.x) * kEachThreads + threadIdx.x; n < count; n += step) work(n);
}

}  // namespace kernel
SPLASH_NAMESPACE_END
