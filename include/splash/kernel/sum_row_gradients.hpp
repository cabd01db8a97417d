// The gradient of a parameter that each head has one of: a sum over all queries of the head.
#pragma once

#include <cuda_runtime.h>

#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Normalizer>
struct SumRowGradientsParams {
  Normalizer normalizer;
  const float *statistic, *dots;  ///< dots: sum P dP of each query, (batches, heads, num_queries)
  float* gradient;                ///< (heads,)
  int batches, heads, num_queries;
  int first_head, head_step;
  bool adds;  ///< to what `gradient` holds
};

/// One block of threads a head, always in the same order.
template <int Threads, class Normalizer>
__global__ void sum_row_gradients(const SumRowGradientsParams<Normalizer> params) {
  const auto& [normalizer, statistic, dots, gradient, batches, heads, num_queries, first_head, head_step, adds] =
      params;
  const int head = first_head + int(blockIdx.x) * head_step, thread = int(threadIdx.x);
  const Normalizer own = normalizers::of_head(normalizer, head);
  float sum = 0;
  for (int batch = 0; batch < batches; ++batch) {
    const int64_t line = (int64_t(batch) * heads + head) * num_queries;
    for (int row = thread; row < num_queries; row += Threads)
      if (const float of_row = statistic[line + row]; !normalizers::kept_none<Normalizer>(of_row))
        sum += own.row_gradient(of_row, dots[line + row]);
  }
  __shared__ float sums[Threads / 32];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  __syncthreads();
  if (thread != 0) return;
  for (int n = 1; n < Threads / 32; ++n) sum += sums[n];
  gradient[head] = (adds ? gradient[head] : 0.0f) + sum;
}

}  // namespace kernel
SPLASH_NAMESPACE_END
