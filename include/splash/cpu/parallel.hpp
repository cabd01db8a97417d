// Tasks over the caller's threads, and the memory they work in.
#pragma once

#include <stdlib.h>

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

inline constexpr int64_t kAlignment = 64;

/// A number of bytes that keeps what follows it aligned.
SPLASH_HD constexpr int64_t aligned_bytes(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Aligned memory, not initialised; data() is null where there was none to have.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) : data_(static_cast<unsigned char*>(aligned_alloc(kAlignment, size(bytes)))) {}
  ~Buffer() { free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  unsigned char* data() const { return data_; }

 private:
  static std::size_t size(int64_t bytes) { return std::size_t(aligned_bytes(bytes < 1 ? 1 : bytes)); }
  unsigned char* data_;
};

/// Cuts a piece of memory into arrays. Made on a null pointer it only counts: bytes() is what they take.
class Arena {
 public:
  explicit Arena(unsigned char* data) : data_(data) {}
  template <class T>
  T* take(int64_t count) {
    T* array = data_ ? reinterpret_cast<T*>(data_ + bytes_) : nullptr;
    bytes_ += aligned_bytes(count * int64_t(sizeof(T)));
    return array;
  }
  int64_t bytes() const { return bytes_; }

 private:
  unsigned char* data_;
  int64_t bytes_ = 0;
};

SPLASH_HD int worker_count(const Parallel& parallel, int64_t tasks) {
  const int64_t threads = parallel.run && parallel.threads > 1 ? parallel.threads : 1;
  return int(tasks < threads ? (tasks < 1 ? 1 : tasks) : threads);
}

/// body(worker, task) for every task in [0, tasks), worker < workers. Each worker fetches the next task when it is
/// free, so that tasks of unequal length need no balancing; put the long ones first.
template <class Body>
void for_each_task(const Parallel& parallel, int workers, int64_t tasks, const Body& body) {
  struct Queue {
    const Body* body;
    int64_t tasks;
    int64_t next_task;
    int next_worker;
    static void drain(void* context, int64_t, int64_t) {
      Queue& queue = *static_cast<Queue*>(context);
      const int worker = __atomic_fetch_add(&queue.next_worker, 1, __ATOMIC_RELAXED);
      for (;;) {
        const int64_t task = __atomic_fetch_add(&queue.next_task, 1, __ATOMIC_RELAXED);
        if (task >= queue.tasks) return;
        (*queue.body)(worker, task);
      }
    }
  };
  Queue queue{&body, tasks, 0, 0};
  if (workers > 1) {
    parallel.run(workers, &Queue::drain, &queue);
  } else {
    Queue::drain(&queue, 0, 1);
  }
}

inline Status out_of_memory() { return {StatusCode::cuda_error, "out of host memory"}; }

}  // namespace cpu
SPLASH_NAMESPACE_END
