#include "kernels/tables.hpp"

#include "splash/cpu/each.hpp"

namespace splash::kernels {

#if defined(SPLASH_WITH_CUDA)
template <class Work>
Status each_on_cuda(const Work& work, const Execution& execution);  // tables.cu
#endif

template <class Work>
Status each(const Work& work, Arch arch, [[maybe_unused]] const Execution& execution) {
  if (arch == Arch::cpu) {
    cpu::each(work, execution.parallel);
    return {};
  }
#if defined(SPLASH_WITH_CUDA)
  return each_on_cuda(work, execution);
#else
  return {StatusCode::no_kernel, "this build has no CUDA kernels"};
#endif
}

#define SPLASH_TABLE_ON_ALL(...) template SPLASH_API Status each(const __VA_ARGS__&, Arch, const Execution&)
SPLASH_TABLE_WORK(SPLASH_TABLE_ON_ALL)

}  // namespace splash::kernels
