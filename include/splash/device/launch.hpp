// What every launch asks of the CUDA runtime.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

inline Status failure(cudaError_t error) { return {StatusCode::cuda_error, cudaGetErrorString(error)}; }

/// Multiprocessors of the current device, and the kernel allowed to take its shared memory there; asked for once.
template <class Function>
cudaError_t prepare_launch(Function* function, int bytes, int& multiprocessors) {
  static std::atomic<int> counts[64];  // a count a device, once the kernel is ready there
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  std::atomic<int>& count = counts[device & 63];
  multiprocessors = count.load();
  if (multiprocessors) return cudaSuccess;
  cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) count.store(multiprocessors);
  return error;
}

}  // namespace device
SPLASH_NAMESPACE_END
