#include "kernels/registry.hpp"

#if defined(SPLASH_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace splash::kernels {

Arch current_arch([[maybe_unused]] int device) {
#if defined(SPLASH_WITH_CUDA)
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess)
    return Arch(10 * major + minor);
#endif
  return Arch::cuda;
}

}  // namespace splash::kernels
