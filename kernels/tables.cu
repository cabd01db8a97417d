#include "kernels/tables.hpp"
#include "splash/device/each.hpp"

namespace splash::kernels {

template <class Work>
Status each_on_cuda(const Work& work, const Execution& execution) {
  return device::each(work, static_cast<cudaStream_t>(execution.stream));
}

#define SPLASH_TABLE_ON_CUDA(...) template Status each_on_cuda(const __VA_ARGS__&, const Execution&)
SPLASH_TABLE_WORK(SPLASH_TABLE_ON_CUDA)

}  // namespace splash::kernels
