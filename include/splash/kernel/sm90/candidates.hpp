// The __global__ shell of the Hopper kernel that finds candidates.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "splash/collective/sm90/candidates/consumer.hpp"
#include "splash/collective/sm90/producer.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Config>
struct ParamsCandidatesSm90 {
  typename collective::ProducerSm90<Config>::Params producer;
  typename collective::ConsumerCandidatesSm90<Config>::Params consumer;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kTuning.warps.blocks_per_sm)
    candidates_sm90(const __grid_constant__ ParamsCandidatesSm90<Config> params) {
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(bytes);
  const int warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);
  constexpr int kFirstProducer = 4 * Config::kConsumers;
  if (warp == 0 && cute::elect_one_sync()) shared.start();
  __syncthreads();
  if (warp >= kFirstProducer) {
    if constexpr (Config::kTuning.registers.producer > 0)
      cutlass::arch::warpgroup_reg_dealloc<Config::kTuning.registers.producer>();
    collective::ProducerSm90<Config> producer{params.producer, shared, warp - kFirstProducer, int(threadIdx.x) & 31};
    producer.run();
    return;
  }
  if constexpr (Config::kTuning.registers.consumer > 0)
    cutlass::arch::warpgroup_reg_alloc<Config::kTuning.registers.consumer>();
  collective::ConsumerCandidatesSm90<Config> consumer{
      params.consumer, params.producer.geometry, params.producer.log2_marked, shared, warp / 4, int(threadIdx.x) & 127};
  collective::Ring<Config::kRowBuffers> q;
  for (collective::Ring<Config::kWorkSlots> slot;; slot.advance()) {
    collective::wait(shared.rows_full[q.slot()], q.phase());
    const collective::WorkTile& work = shared.work[slot.slot()];
    if (work.end) break;
    if (work.any) consumer.consume(q.slot(), work);
    consumer.release(shared.rows_empty[q.slot()]);
    q.advance();
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
