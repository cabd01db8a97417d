// The __global__ shell of the Hopper forward: which warps play which role, and the loop over pieces of work.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "splash/collective/sm90/forward/consumer.hpp"
#include "splash/collective/sm90/forward/epilogue.hpp"
#include "splash/collective/sm90/forward/resume.hpp"
#include "splash/collective/sm90/producer.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Config>
struct ParamsForwardSm90 {
  typename collective::ProducerSm90<Config>::Params producer;
  typename collective::ConsumerForwardSm90<Config>::Params consumer;
  typename collective::EpilogueForwardSm90<Config>::Output output;
  bool beside;  ///< the kernel before it on the stream has nothing to do with this one
};

/// Resumes: rows go on from an earlier output. A kernel of its own, since it takes registers.
template <class Config_, bool Resumes>
struct ForwardSm90 {
  using Config = Config_;
  using Producer = collective::ProducerSm90<Config>;
  using Consumer = collective::ConsumerForwardSm90<Config>;
  using Epilogue = collective::EpilogueForwardSm90<Config>;

  /// An earlier output is on its way during the first product where registers hold both.
  static constexpr bool kFetchesEarly = tuning::fetches_early(Config::kHeadDim);

  using Params = ParamsForwardSm90<Config>;

  static __device__ __forceinline__ void consume(const Params& params, typename Config::SharedStorage& shared,
                                                 int group, int thread) {
    Consumer consumer{params.consumer, shared, group, thread};
    consumer.start_turns();
    collective::Ring<Config::kRowBuffers> q;
    const bool packed = params.producer.geometry.packed_sequences();
    const auto store_statistics = [&](const collective::WorkTile& work, const typename Consumer::Rows& rows) {
      Epilogue::store_statistics(params.output, params.consumer.normalizer, work, packed, group, thread, rows);
    };
    // With two Q tiles, that of the last piece and its WorkTile are given back when its output has left, under the
    // first product of the next one; its statistics are formed there, too, where a normalizer holds few of them.
    constexpr bool kTwo = Config::kRowBuffers > 1, kLater = kTwo && !Config::Normalizer::kScoreSweeps;
    const collective::WorkTile* last = nullptr;
    typename Consumer::Rows last_rows;
    for (collective::Ring<Config::kWorkSlots> slot;; slot.advance()) {
      collective::wait(shared.rows_full[q.slot()], q.phase());
      const collective::WorkTile& work = shared.work[slot.slot()];
      if (work.end) break;
      auto output = cute::partition_fragment_C(typename Config::MmaOutput{},
                                               cute::Shape<cute::_64, cute::Int<Config::kHeadDim>>{});
      typename Consumer::Rows rows;
      collective::ResumeForwardSm90<Config> resume;
      const auto fetch = [&] { resume.fetch(params.output, work, packed, group, thread); };
      if constexpr (Resumes && kFetchesEarly) fetch();
      const auto begin = [&] {
        if (kTwo && last) {
          if constexpr (kLater) store_statistics(*last, last_rows);
          Epilogue::finish(thread);
          consumer.release(shared.rows_empty[q.slot() ^ 1]);
        }
        if constexpr (Resumes) {
          if constexpr (!kFetchesEarly) fetch();
          resume.put(thread, output, rows);
        }
      };
      if (work.any) {
        consumer.consume(q.slot(), output, rows, begin);
      } else {
        cute::clear(output);
        begin();
        if constexpr (Resumes) rows.finish(params.consumer.normalizer, collective::QuadReduce{});
      }
      Epilogue::store(params.output, params.producer.maps, shared, params.consumer.normalizer, work, packed, q.slot(),
                      group, thread, output, rows);
      last = &work;
      if constexpr (kLater)
        last_rows = rows;
      else
        store_statistics(work, rows);
      if constexpr (!kTwo) {
        Epilogue::finish(thread);
        consumer.release(shared.rows_empty[q.slot()]);
      }
      q.advance();
    }
    if (kLater && last) store_statistics(*last, last_rows);
    Epilogue::finish(thread);
  }
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::Config::kThreads, Kernel::Config::kTuning.warps.blocks_per_sm)
    forward_sm90(const __grid_constant__ typename Kernel::Params params) {
  using Config = typename Kernel::Config;
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(bytes);

  // The same value in all lanes, so that the role is one branch a warp.
  const int warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);
  constexpr int kFirstProducer = 4 * Config::kConsumers;
  if (warp == 0 && cute::elect_one_sync()) shared.start();
  if (warp == kFirstProducer && cute::elect_one_sync()) {
    const auto& maps = params.producer.maps;
    for (int later = 0; later < 2; ++later) {
      cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&maps.q[later]));
      cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&maps.k[later]));
      cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&maps.v[later]));
    }
  }
  // From here on the kernel after this one may come onto multiprocessors that this one leaves.
  if (!params.beside) collective::wait_for_earlier_kernels();
  collective::let_next_kernel_begin();
  __syncthreads();

  if (warp >= kFirstProducer) {
    if constexpr (Config::kTuning.registers.producer > 0)
      cutlass::arch::warpgroup_reg_dealloc<Config::kTuning.registers.producer>();
    typename Kernel::Producer producer{params.producer, shared, warp - kFirstProducer, int(threadIdx.x) & 31};
    producer.run();
    // So that the end of this kernel means the end of those before it.
    if (params.beside) collective::wait_for_earlier_kernels();
  } else {
    if constexpr (Config::kTuning.registers.consumer > 0)
      cutlass::arch::warpgroup_reg_alloc<Config::kTuning.registers.consumer>();
    Kernel::consume(params, shared, warp / 4, int(threadIdx.x) & 127);
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
