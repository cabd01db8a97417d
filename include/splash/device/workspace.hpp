// Device memory of one call: the caller's, or the stream's own.
#pragma once

#include <cuda_runtime.h>

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// Through Execution::allocate where the caller has an allocator, otherwise from the stream-ordered pool of the device,
/// and given back in the order of the stream.
class Workspace {
 public:
  Workspace(const Execution& exec, int64_t bytes) : stream_(static_cast<cudaStream_t>(exec.stream)) {
    if (bytes <= 0) return;
    if (exec.allocate) {
      data_ = static_cast<char*>(exec.allocate(exec.allocate_context, bytes));
    } else if (void* memory = nullptr; cudaMallocAsync(&memory, size_t(bytes), stream_) == cudaSuccess) {
      data_ = static_cast<char*>(memory);
      own_ = true;
    }
    missing_ = data_ == nullptr;
  }
  ~Workspace() {
    if (own_) cudaFreeAsync(data_, stream_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  char* data() const { return data_; }
  /// The next bytes of it, from data() on.
  char* take(int64_t bytes) {
    char* taken = data_ + taken_;
    taken_ += bytes;
    return taken;
  }
  bool missing() const { return missing_; }

 private:
  cudaStream_t stream_;
  char* data_ = nullptr;
  int64_t taken_ = 0;
  bool own_ = false, missing_ = false;
};

}  // namespace device
SPLASH_NAMESPACE_END
