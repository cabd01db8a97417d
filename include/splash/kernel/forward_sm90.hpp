// The __global__ shell of the Hopper forward: which block works on which rows, and which warps play which role.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "splash/collective/epilogue_forward_sm90.hpp"
#include "splash/collective/mainloop_forward_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Config_, class Mainloop_, class Epilogue_>
struct ForwardSm90 {
  using Config = Config_;
  using Mainloop = Mainloop_;
  using Epilogue = Epilogue_;

  struct Params {
    typename Mainloop::Params mainloop;
    typename Epilogue::Params epilogue;
    Positions positions;
    int num_queries, num_keys, heads, row_tiles;
  };
};

/// One block of threads a tile of query rows. Blocks start in order of their index: head after head, so that a head's
/// keys stay in L2, and last rows first, since under causal patterns they are the longest.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::Config::kThreads, Kernel::Config::kTuning.blocks_per_sm)
    forward_sm90(const __grid_constant__ typename Kernel::Params params) {
  using Config = typename Kernel::Config;
  using Mainloop = typename Kernel::Mainloop;
  extern __shared__ __align__(1024) unsigned char bytes[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(bytes);

  const int problem = int(blockIdx.x) / params.row_tiles;
  const int tile = params.row_tiles - 1 - (int(blockIdx.x) - problem * params.row_tiles);
  const int batch = problem / params.heads;
  const typename Mainloop::Work work{
      make_frame(params.positions, batch, problem - batch * params.heads, params.num_queries, params.num_keys),
      tile * Config::kRows};
  Mainloop mainloop{params.mainloop, shared, work};

  // The same value in all lanes, so that the role is one branch a warp.
  const int warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);
  if (warp == 0 && cute::elect_one_sync()) {
    shared.q_full.init(1);
    shared.scrub.init(1);
    shared.swept.init(1);
    for (int& slot : shared.votes) slot = 0;
    for (int s = 0; s < Config::kStages; ++s) {
      shared.k_full[s].init(1);
      shared.v_full[s].init(1);
      shared.k_empty[s].init(4 * Config::kConsumers);
      shared.v_empty[s].init(4 * Config::kConsumers);
    }
    cutlass::arch::fence_barrier_init();
    cute::prefetch_tma_descriptor(params.mainloop.tma_q.get_tma_descriptor());
    cute::prefetch_tma_descriptor(params.mainloop.tma_k.get_tma_descriptor());
    cute::prefetch_tma_descriptor(params.mainloop.tma_v.get_tma_descriptor());
  }
  __syncthreads();

  if (warp < 4) {
    cutlass::arch::warpgroup_reg_dealloc<Config::kTuning.producer_registers>();
    if (warp == 0) mainloop.produce(int(threadIdx.x) & 31);
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kTuning.consumer_registers>();
    const int group = warp / 4 - 1;
    const int thread = int(threadIdx.x) & 127;
    auto output =
        cute::partition_fragment_C(typename Config::MmaOutput{}, cute::Shape<cute::_64, cute::Int<Config::kHeadDim>>{});
    typename Mainloop::Rows rows;
    mainloop.consume(group, thread, output, rows);
    Kernel::Epilogue::store(params.epilogue, shared, params.mainloop.normalizer, work.frame, work.row_begin, group,
                            thread, output, rows);
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
