// Types of one Hopper forward instance: tiles, shared-memory layouts, matrix instructions, shared storage.
#pragma once

#include <cuda.h>

#include <cutlass/arch/barrier.h>
#include <cute/arch/cluster_sm90.hpp>
#include <cute/tensor.hpp>
#include <cutlass/gemm/collective/builders/sm90_common.inl>

#include "splash/collective/work_forward.hpp"
#include "splash/normalizers/concept.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/tuning/forward_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// Position in a ring of stages: slot, and the parity that its barrier must have passed. One register.
template <int Stages>
class Ring {
 public:
  SPLASH_HD int slot() const { return state_ & 0xff; }
  SPLASH_HD unsigned phase() const { return state_ >> 8; }
  SPLASH_HD void advance() { state_ = slot() + 1 == Stages ? (state_ & 0x100) ^ 0x100 : state_ + 1; }

 private:
  unsigned state_ = 0;
};

/// Tensor maps (D, class, row, head, batch) of a tensor of rows. Where its rows are not a multiple of the classes, the
/// first classes have a row more than the others, and a map of their own: [0] of the classes before `long_classes`, [1]
/// of those from there on.
struct RowMapsSm90 {
  const CUtensorMap* map;
  int fold_head, fold_batch;  ///< 0: expanded dimension
};

struct MapsForwardSm90 {
  CUtensorMap q[2], k[2], v[2], out[2];
  int long_query_classes, long_key_classes;
  int fold_q_head, fold_q_batch, fold_k_head, fold_k_batch, fold_v_head, fold_v_batch;

  __device__ __forceinline__ RowMapsSm90 rows(int) const { return {q, fold_q_head, fold_q_batch}; }
};

template <patterns::Pattern Pattern_, normalizers::Normalizer Normalizer_, class Element_, int HeadDim, int Block>
struct ConfigForwardSm90 {
  using Pattern = Pattern_;
  using Normalizer = Normalizer_;
  using Element = Element_;

  static constexpr tuning::ForwardSm90 kTuning = tuning::forward_sm90(
      HeadDim, Block, {.lists = requires {
                         Pattern::kBlockLists;
                       }, .simple = patterns::SimplePattern<Pattern>, .sweeps = Normalizer::kScoreSweeps});
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kTeams = 1, kConsumers = kTuning.consumers;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kKeys = kTuning.tile_keys;
  static constexpr int kKeyStages = kTuning.key_stages, kValueStages = kTuning.value_stages;
  static constexpr int kQueryBuffers = kTuning.query_buffers;
  static constexpr int kWorkSlots = kQueryBuffers + 1;
  static constexpr int kProducerWarps = kTuning.producer_warps;
  static constexpr int kThreads = 128 * kConsumers + 32 * kProducerWarps;

  // What the producers ask.
  using View = const Pattern&;
  using Maps = MapsForwardSm90;
  static constexpr bool kKeyMajor = false, kAll = false, kScoreSweeps = Normalizer::kScoreSweeps;
  static constexpr bool kScrubFirst = false, kScrubSecond = true;  ///< 0 * NaN: of K and V, the one that weights meet
  static constexpr bool kColumnNumbers = false;
  static constexpr int kRowTensors = 1;
  static SPLASH_HD constexpr int row_tile(int, int buffer, int group) { return buffer * kConsumers + group; }
  static_assert(HeadDim % 16 == 0 && kKeys % 16 == 0, "wgmma steps 16 deep");
  /// setmaxnreg moves registers between the warp groups of a thread block; more than the block got at its launch never
  /// come, and the block would wait for ever.
  static constexpr int kLaunchRegisters = 65536 / kTuning.blocks_per_sm / kThreads / 8 * 8;
  static_assert(kConsumers * kTuning.consumer_registers + kTuning.producer_registers <=
                    kLaunchRegisters * (kConsumers + 1),
                "setmaxnreg asks for more registers than the launch gave the thread block");
  static_assert(kTuning.consumer_registers == 0 || kProducerWarps == 4, "setmaxnreg takes whole warp groups");

  // (64, D, warp group, buffer), D contiguous, 128-byte swizzle where D allows. The output leaves through the same
  // memory.
  using AtomRows = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element,
                                                                                cute::Int<64>, cute::Int<HeadDim>>());
  using LayoutQ = decltype(cute::tile_to_shape(
      AtomRows{}, cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kConsumers * kQueryBuffers>>{}));
  // (keys, D, stage), D contiguous
  using AtomK = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element,
                                                                             cute::Int<kKeys>, cute::Int<HeadDim>>());
  using LayoutK = decltype(cute::tile_to_shape(
      AtomK{}, cute::Shape<cute::Int<kKeys>, cute::Int<HeadDim>, cute::Int<kKeyStages>>{}));
  // (D, keys, stage), D contiguous: the B operand of P V. Keys first, so that one TMA box holds all keys.
  using AtomV = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element,
                                                                             cute::Int<HeadDim>, cute::Int<kKeys>>());
  using LayoutV = decltype(cute::tile_to_shape(
      AtomV{}, cute::Shape<cute::Int<HeadDim>, cute::Int<kKeys>, cute::Int<kValueStages>>{},
      cute::Step<cute::_2, cute::_1, cute::_3>{}));
  /// A TMA box is a swizzle atom wide: all rows of so many columns lie together in each of the three layouts.
  static constexpr int kBoxColumns = HeadDim % 64 == 0 ? 64 : 32;
  static_assert(HeadDim % kBoxColumns == 0);

  // S (64, keys) = Q K^T, both from shared memory; O (64, D) += P V, P from registers.
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float,
                                 cute::Shape<cute::_64, cute::Int<kKeys>, cute::Int<HeadDim>>>()));
  using MmaOutput = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kKeys>>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));

  /// Mask words: word w of a row holds the columns 64 w to 64 w + 63 of the tile.
  static constexpr int kWords = (kKeys + 63) / 64;
  static constexpr int kWordSlots = kTuning.word_slots;

  /// Of 32 rows against a tile of keys.
  enum ChunkState : unsigned char { kEmpty = 0, kPartial = 1, kFull = 2 };
  static constexpr int kChunks = kRows / 32;

  /// What the producers tell the consumers about the tile in a K stage.
  struct TileNote {
    unsigned char state[kChunks];
    bool words;  ///< the tile has mask words, in the next slot of their ring
    bool last;   ///< of the sweep
  };

  struct SharedStorage {
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutQ>> q;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutK>> k;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutV>> v;
    uint64_t words[kWordSlots][kWords][kRows];
    cutlass::arch::ClusterTransactionBarrier q_full[kQueryBuffers], k_full[kKeyStages], v_full[kValueStages], scrub;
    cutlass::arch::ClusterBarrier q_empty[kQueryBuffers], k_empty[kKeyStages], v_empty[kValueStages],
        words_empty[kWordSlots], swept;
    Work work[kWorkSlots];           ///< of the consumers, and the one that the producers work on
    int work_slot;                   ///< the latter
    int rounds;                      ///< dealt out so far
    Ring<kQueryBuffers> query_ring;  ///< of the producers
    TileNote note[kKeyStages];
    int votes[3];  ///< of the last sweep, this one and the next
  };

  static constexpr int kBytesQ = kRows * HeadDim * int(sizeof(Element));
  static constexpr int kBytesTile = kKeys * HeadDim * int(sizeof(Element));
};

/// CUTLASS's barriers do not tell the compiler that memory changes under them.
template <class Barrier>
__device__ __forceinline__ void wait(Barrier& barrier, unsigned phase) {
  barrier.wait(phase);
  asm volatile("" ::: "memory");
}
template <class Barrier>
__device__ __forceinline__ void arrive(Barrier& barrier) {
  asm volatile("" ::: "memory");
  barrier.arrive();
}

/// Named barriers of a thread block; 0 is __syncthreads.
enum NamedBarrier : int { kVote = 0, kConsumersDone = 0, kProducers = 1, kStore = 2, kTurn = 5 };  // of 8

}  // namespace collective
SPLASH_NAMESPACE_END
