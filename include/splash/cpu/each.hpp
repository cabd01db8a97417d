// Work of many items that know nothing of each other, over the caller's threads.
#pragma once

#include "splash/cpu/parallel.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// work(n) for n in [0, work.count()).
template <class Work>
void each(const Work& work, const Parallel& parallel) {
  constexpr int64_t kChunks = 8;  // a thread
  const int64_t count = work.count();
  const int workers = worker_count(parallel, count);
  const int64_t chunk = count / (kChunks * workers) + 1;
  for_each_task(parallel, workers, (count + chunk - 1) / chunk, [&](int, int64_t task) {
    const int64_t end = (task + 1) * chunk < count ? (task + 1) * chunk : count;
    for (int64_t n = task * chunk; n < end; ++n) work(n);
  });
}

}  // namespace cpu
SPLASH_NAMESPACE_END
