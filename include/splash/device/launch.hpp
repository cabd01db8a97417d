// What every launch asks of the CUDA runtime.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// The runtime would tell the next call of the same error, too.
inline Status failure(cudaError_t error) {
  cudaGetLastError();
  return {StatusCode::cuda_error, cudaGetErrorString(error)};
}

/// Multiprocessors of the current device, and the kernel allowed to take its shared memory there; asked for once.
template <auto Function>
cudaError_t prepare_launch(int bytes, int& multiprocessors) {
  static std::atomic<int> counts[64];  // a count a device, once the kernel is ready there
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  std::atomic<int>& count = counts[device & 63];
  multiprocessors = count.load();
  if (multiprocessors) return cudaSuccess;
  cudaError_t error = cudaFuncSetAttribute(Function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) count.store(multiprocessors);
  return error;
}

/// overlap: the kernel waits itself for the one before it on the stream (programmatic dependent launch).
template <class Params>
cudaError_t launch_after(bool overlap, void (*function)(Params), dim3 blocks, int threads, int bytes,
                         cudaStream_t stream, const Params& params) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, function, params);
}

}  // namespace device
SPLASH_NAMESPACE_END
