// The __global__ shell of the Hopper backward: which warps play which role, and the loop over pieces of work.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "splash/collective/sm90/backward/consumer.hpp"
#include "splash/collective/sm90/backward/consumer_by_output.hpp"
#include "splash/collective/sm90/backward/epilogue.hpp"
#include "splash/collective/sm90/producer.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Config_>
struct BackwardSm90 {
  using Config = Config_;
  using Producer = collective::ProducerSm90<Config>;
  using Consumer = collective::ConsumerBackwardSm90<Config>;
  using Epilogue = collective::EpilogueBackwardSm90<Config>;

  struct Params {
    typename Producer::Params producer;
    typename Consumer::Params consumer;
    typename Epilogue::Output output;
    bool beside;  ///< needs nothing of the kernel before it on the stream
  };

  /// What the forward left of this thread's rows, where rows are queries.
  static __device__ __forceinline__ float2 stats_of(const Params& params, const collective::WorkTile& work, int group,
                                                    int thread, int r) {
    const int index = work.row_begin + 64 * group + collective::accumulator_row(thread, r);
    if (Config::kKeyMajor || index >= work.frame.num_queries) return Config::kNoStats;
    return params.producer
        .row_stats[collective::query_at(params.producer.geometry, work.frame, work.frame.head, work.queries, index)];
  }

  static __device__ __forceinline__ void consume(const Params& params, typename Config::SharedStorage& shared,
                                                 int group, int thread) {
    Consumer consumer{params.consumer, shared, group, thread};
    consumer.start_turns();
    collective::Ring<Config::kRowBuffers> q;
    // With two tiles of rows, that of the last piece is given back when its results have left, under the first product
    // of the next one.
    constexpr bool kTwo = Config::kRowBuffers > 1;
    bool stored = false;
    for (collective::Ring<Config::kWorkSlots> slots;; slots.advance()) {
      collective::wait(shared.rows_full[q.slot()], q.phase());
      const int slot = kTwo ? slots.slot() : int(q.phase());  // with one tile of rows they are the same
      const collective::WorkTile& work = shared.work[slot];
      if (work.end) break;
      auto out1 = cute::partition_fragment_C(typename Config::MmaOutput{},
                                             cute::Shape<cute::_64, cute::Int<Config::kHeadDim>>{});
      auto out2 = cute::make_fragment_like(out1);
      float dots[collective::kFragmentRows] = {};
      typename Consumer::RowStats own;
      for (int r = 0; r < collective::kFragmentRows; ++r) {
        const float2 row_stats = stats_of(params, work, group, thread, r);
        own.shift[r] = row_stats.x;
        own.delta[r] = row_stats.y;
      }
      const auto begin = [&] {
        if (kTwo && stored) {
          Epilogue::finish(thread);
          if constexpr (Config::kOverlaps) Epilogue::sync();
          consumer.release(shared.rows_empty[q.slot() ^ 1]);
        }
      };
      if (work.any) {
        if constexpr (Config::kZeroFillRows) consumer.zero_unread_rows(slot, q.slot());
        consumer.consume(q.slot(), own, out1, out2, dots, begin);
      } else {
        cute::clear(out1);
        cute::clear(out2);
        begin();
      }
      Epilogue::store(params.output, params.producer.maps, shared, params.producer.geometry, work, q.slot(), group,
                      thread, out1, out2, dots);
      stored = true;
      if constexpr (!kTwo) {
        Epilogue::finish(thread);
        consumer.release(shared.rows_empty[q.slot()]);
      }
      q.advance();
    }
    Epilogue::finish(thread);
  }

  /// The same where the groups have the same rows, and one of the outputs each.
  template <int Output>
  static __device__ __forceinline__ void consume_one(const Params& params, typename Config::SharedStorage& shared,
                                                     int thread) {
    static_assert(Config::kRowBuffers == 1);
    collective::ConsumerByOutputSm90<Config, Output> consumer{params.consumer, shared, thread};
    for (collective::Ring<1> q;; q.advance()) {
      collective::wait(shared.rows_full[0], q.phase());
      const collective::WorkTile& work = shared.work[q.phase()];
      if (work.end) break;
      auto out = cute::partition_fragment_C(typename Config::MmaOutput{},
                                            cute::Shape<cute::_64, cute::Int<Config::kHeadDim>>{});
      if (work.any) {
        consumer.consume(out);
      } else {
        cute::clear(out);
      }
      Epilogue::template store_one<Output>(params.output, params.producer.maps, shared, params.producer.geometry, work,
                                           thread, out);
      Epilogue::finish(thread);
      consumer.release(shared.rows_empty[0]);
    }
    Epilogue::finish(thread);
  }
};

template <class Config>
inline constexpr int shared_bytes = Config::kTeams * int(sizeof(typename Config::SharedStorage));

template <class Kernel>
__global__ void __launch_bounds__(Kernel::Config::kThreads, Kernel::Config::kTuning.warps.blocks_per_sm)
    backward_sm90(const __grid_constant__ typename Kernel::Params params) {
  using Config = typename Kernel::Config;
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto* const teams = reinterpret_cast<typename Config::SharedStorage*>(bytes);

  // The same value in all lanes, so that the role is one branch a warp.
  const int warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);
  constexpr int kConsumerWarps = 4 * Config::kConsumers, kFirstProducer = Config::kTeams * kConsumerWarps;
  if (warp < Config::kTeams && cute::elect_one_sync()) teams[warp].start(warp);
  // From here on the kernel after this one may come onto multiprocessors that this one leaves.
  if (!params.beside) collective::wait_for_earlier_kernels();
  collective::let_next_kernel_begin();
  __syncthreads();

  if (warp >= kFirstProducer) {
    if constexpr (Config::kTuning.registers.producer)
      cutlass::arch::warpgroup_reg_dealloc<Config::kTuning.registers.producer>();
    // Unsigned: the upper half of an address is then no register.
    const unsigned own = unsigned(warp - kFirstProducer), team = Config::kTeams > 1 ? own / Config::kProducerWarps : 0;
    typename Kernel::Producer producer{params.producer, teams[team], int(own - team * Config::kProducerWarps),
                                       int(threadIdx.x) & 31};
    producer.run();
    // So that the end of this kernel means the end of those before it.
    if (params.beside) collective::wait_for_earlier_kernels();
  } else {
    if constexpr (Config::kTuning.registers.consumer)
      cutlass::arch::warpgroup_reg_alloc<Config::kTuning.registers.consumer>();
    const int team = Config::kTeams > 1 ? warp / kConsumerWarps : 0;
    // Teams have a register for it; the compiler would read the special register anew for each tile.
    int thread = int(threadIdx.x) & 127;
    if constexpr (Config::kTeams > 1) thread = __shfl_sync(~0u, thread, int(threadIdx.x) & 31);
    const int group = (warp - team * kConsumerWarps) / 4;
    if constexpr (!Config::kByOutput)
      Kernel::consume(params, teams[team], group, thread);
    else if (group == 0)
      Kernel::template consume_one<1>(params, teams[team], thread);
    else
      Kernel::template consume_one<0>(params, teams[team], thread);
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
