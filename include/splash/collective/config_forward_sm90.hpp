// Types of one Hopper forward instance: tiles, shared-memory layouts, matrix instructions, shared storage.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cute/arch/cluster_sm90.hpp>
#include <cute/tensor.hpp>
#include <cutlass/gemm/collective/builders/sm90_common.inl>

#include "splash/normalizers/concept.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/tuning/forward_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

template <patterns::Pattern Pattern_, normalizers::Normalizer Normalizer_, class Element_, int HeadDim, int Block>
struct ConfigForwardSm90 {
  using Pattern = Pattern_;
  using Normalizer = Normalizer_;
  using Element = Element_;

  /// Score sweeps mask in a second place, and the two unrolled masks together do not fit the registers.
  static constexpr bool kUnrollMask = patterns::UnrolledKeep<Pattern> && !Normalizer::kScoreSweeps;
  static constexpr tuning::ForwardSm90 kTuning = tuning::forward_sm90(HeadDim, Block, kUnrollMask);
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kConsumers = kTuning.consumers;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kKeys = kTuning.tile_keys;
  static constexpr int kStages = kTuning.stages;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static_assert(HeadDim % 16 == 0 && kKeys % 16 == 0, "wgmma steps 16 deep");
  /// setmaxnreg moves registers between the warp groups of a thread block; more than the block got at its launch never
  /// come, and the block would wait for ever.
  static constexpr int kLaunchRegisters = 65536 / kTuning.blocks_per_sm / kThreads / 8 * 8;
  static_assert(kConsumers * kTuning.consumer_registers + kTuning.producer_registers <=
                    kLaunchRegisters * (kConsumers + 1),
                "setmaxnreg asks for more registers than the launch gave the thread block");

  // (64, D, warp group), D contiguous, 128-byte swizzle where D allows. The output leaves through the same memory.
  using AtomRows = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element,
                                                                                cute::Int<64>, cute::Int<HeadDim>>());
  using LayoutQ =
      decltype(cute::tile_to_shape(AtomRows{}, cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kConsumers>>{}));
  // (keys, D, stage), D contiguous
  using AtomK = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element,
                                                                             cute::Int<kKeys>, cute::Int<HeadDim>>());
  using LayoutK =
      decltype(cute::tile_to_shape(AtomK{}, cute::Shape<cute::Int<kKeys>, cute::Int<HeadDim>, cute::Int<kStages>>{}));
  // (D, keys, stage), D contiguous: the B operand of P V. Keys first, so that one TMA box holds all keys of 64 columns.
  using AtomV = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element,
                                                                             cute::Int<HeadDim>, cute::Int<kKeys>>());
  using LayoutV =
      decltype(cute::tile_to_shape(AtomV{}, cute::Shape<cute::Int<HeadDim>, cute::Int<kKeys>, cute::Int<kStages>>{},
                                   cute::Step<cute::_2, cute::_1, cute::_3>{}));

  // S (64, keys) = Q K^T, both from shared memory; O (64, D) += P V, P from registers.
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float,
                                 cute::Shape<cute::_64, cute::Int<kKeys>, cute::Int<HeadDim>>>()));
  using MmaOutput = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kKeys>>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));

  /// What the producer tells the consumers about the tile in a K stage, in one word: the tile, and a bit for each warp
  /// group that need not mask. A negative word ends a sweep.
  struct TileNote {
    int word;
    static SPLASH_HD TileNote of(int tile, unsigned full) { return {tile << 3 | int(full)}; }
    static SPLASH_HD TileNote end() { return {-1}; }
    SPLASH_HD bool ends() const { return word < 0; }
    SPLASH_HD int tile() const { return word >> 3; }
    SPLASH_HD bool is_full(int group) const { return word >> group & 1; }
  };
  static_assert(kConsumers <= 3);

  struct SharedStorage {
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutQ>> q;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutK>> k;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutV>> v;
    cutlass::arch::ClusterTransactionBarrier q_full;
    cutlass::arch::ClusterTransactionBarrier k_full[kStages], v_full[kStages], scrub;
    cutlass::arch::ClusterBarrier k_empty[kStages], v_empty[kStages], swept;
    TileNote note[kStages];
    int votes[3];  ///< of the last sweep, this one and the next
  };

  static constexpr int kBytesQ = cute::cosize_v<LayoutQ> * sizeof(Element);
  static constexpr int kBytesK = cute::cosize_v<LayoutK> * sizeof(Element) / kStages;
  static constexpr int kBytesV = cute::cosize_v<LayoutV> * sizeof(Element) / kStages;
};

/// Position in a ring of stages: slot, and the parity that its barrier must have passed.
template <int Stages>
struct Ring {
  int slot = 0;
  unsigned phase = 0;
  SPLASH_HD void advance() {
    if (++slot == Stages) slot = 0, phase ^= 1;
  }
};

/// Named barriers of a thread block; 0 is __syncthreads.
enum NamedBarrier : int { kVote = 1, kTurn = 2, kStore = 5 };

}  // namespace collective
SPLASH_NAMESPACE_END
