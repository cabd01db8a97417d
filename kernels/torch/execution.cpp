#include "execution.hpp"

#include <dlfcn.h>

#include "errors.hpp"

namespace splash::torch_ops {
namespace {

void run_in_torch_pool(int64_t count, Parallel::Body body, void* context) {
  torch::stable::parallel_for(0, count, 1, [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

// One binary serves Torch with and without CUDA, so nothing of CUDA may be needed at load time. A weak symbol would not
// do: it is bound when this library is loaded, stays null as libtorch_cuda is no dependency, and crashes when called.
template <class Function>
Function loaded_function(const char* library, const char* name) {
  void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  void* symbol = handle ? dlsym(handle, name) : nullptr;
  if (!symbol) raise("CudaError", library, " is not loaded or has no ", name);
  return reinterpret_cast<Function>(symbol);
}

void* current_cuda_stream(int32_t device_index) {
  using Getter = AOTITorchError (*)(int32_t device_index, void** stream);
  static const auto get = loaded_function<Getter>("libtorch_cuda.so", "aoti_torch_get_current_cuda_stream");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device_index, &stream));
  return stream;
}

}  // namespace

ExecutionScope::ExecutionScope(const Device& device, bool deterministic) : workspace_(device) {
  execution_.deterministic = deterministic;
  execution_.allocate = Workspace::allocate;
  execution_.allocate_context = &workspace_;
  if (device.is_cuda()) {
    arch_ = kernels::current_arch(device.index);
    guard_.emplace(device.index);
    execution_.stream = current_cuda_stream(device.index);
  } else {
    execution_.parallel = {run_in_torch_pool, int(torch::stable::get_num_threads())};
  }
}

}  // namespace splash::torch_ops
