// What both passes have on Hopper: a tile of rows that stays, tiles of columns that stream past, the matrix
// instructions between them, and the shared memory of producers and consumers.
//
// In the forward rows are queries and columns keys and values; backward/config.hpp says what they are there.
#pragma once

#include <cuda.h>

#include <cutlass/arch/barrier.h>
#include <cute/arch/cluster_sm90.hpp>
#include <cute/tensor.hpp>
#include <cutlass/gemm/collective/builders/sm90_common.inl>

#include "splash/collective/compiler.hpp"
#include "splash/collective/work.hpp"
#include "splash/normalizers/concept.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/tuning/sm90/kernel.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// CUTLASS's barriers do not tell the compiler that memory changes under them.
template <class Barrier>
__device__ __forceinline__ void wait(Barrier& barrier, unsigned phase) {
  barrier.wait(phase);
  forget_memory();
}
template <class Barrier>
__device__ __forceinline__ void arrive(Barrier& barrier) {
  forget_memory();
  barrier.arrive();
}

/// Named barriers of a thread block; 0 is __syncthreads, of which consumers know once they have begun.
enum NamedBarrier : int { kConsumersOnly = 0, kProducers = 1, kStore = 2, kTurn = 5 };  // of 8

/// What the consumers want of whoever sends tiles after a sweep, as bits.
enum Again : int { kAllTiles = 1, kMarkedTiles = 2 };

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

/// Tuning: a tuning::KernelSm90. RowTensors: tensors of rows, each in all row buffers; where pieces
/// overlap, only the first one. RowGroups: consumer groups that have rows of their own.
template <class Element_, int HeadDim, auto Tuning, int RowTensors, bool Overlaps = false,
          int RowGroups = Tuning.tile.consumers>
struct TilesSm90 {
  using Element = Element_;

  static constexpr auto kTuning = Tuning;
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kTeams = kTuning.warps.teams;  ///< the rest is of one team
  static constexpr int kConsumers = kTuning.tile.consumers;
  static constexpr int kRowGroups = RowGroups;
  static constexpr int kRows = 64 * kRowGroups;
  static constexpr int kColumns = kTuning.tile.columns;
  static constexpr int kFirstStages = kTuning.pipeline.first_stages, kSecondStages = kTuning.pipeline.second_stages;
  static constexpr int kRowBuffers = kTuning.pipeline.row_buffers;
  static constexpr bool kOverlaps = Overlaps;
  static constexpr int kWorkSlots = kRowBuffers + !Overlaps;
  static constexpr int kProducerWarps = kTuning.warps.producers;
  static constexpr int kThreads = kTuning.threads();
  static constexpr int kRowTensors = RowTensors;
  static_assert(HeadDim % 16 == 0, "wgmma steps 16 deep");
  static_assert(!tuning::misfit(kTuning), "tuning::misfit says why a kernel cannot be tuned so");

  /// Where a tile of 64 rows lies. Results leave through the same memory.
  static SPLASH_HD constexpr int row_tile(int tensor, int buffer, int group) {
    return (tensor * kRowBuffers + (Overlaps && tensor > 0 ? 0 : buffer)) * kRowGroups + group;
  }
  static constexpr int kRowTiles = kRowGroups * (Overlaps ? kRowBuffers + RowTensors - 1 : kRowBuffers * RowTensors);

  // (64, D, tile), D contiguous, 128-byte swizzle where D allows
  using AtomRows = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element,
                                                                                cute::Int<64>, cute::Int<HeadDim>>());
  using LayoutRows = decltype(cute::tile_to_shape(AtomRows{}, cute::Shape<cute::_64, cute::Int<HeadDim>>{}));
  using LayoutRowTiles =
      decltype(cute::tile_to_shape(AtomRows{}, cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kRowTiles>>{}));
  // (columns, D, stage), D contiguous: columns where they meet rows
  using AtomColumns =
      decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element, cute::Int<kColumns>,
                                                                   cute::Int<HeadDim>>());
  template <int Stages>
  using LayoutColumns = decltype(cute::tile_to_shape(
      AtomColumns{}, cute::Shape<cute::Int<kColumns>, cute::Int<HeadDim>, cute::Int<Stages>>{}));
  // (D, columns, stage), D contiguous: the same bytes where weights meet them. Columns first, so that one TMA box holds
  // all of them.
  using AtomTransposed =
      decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element, cute::Int<HeadDim>,
                                                                   cute::Int<kColumns>>());
  template <int Stages>
  using LayoutTransposed = decltype(cute::tile_to_shape(
      AtomTransposed{}, cute::Shape<cute::Int<HeadDim>, cute::Int<kColumns>, cute::Int<Stages>>{},
      cute::Step<cute::_2, cute::_1, cute::_3>{}));
  using LayoutFirst = LayoutColumns<kFirstStages>;
  using LayoutSecond = LayoutTransposed<kSecondStages>;
  /// A TMA box is a swizzle atom wide: all rows of so many columns lie together in each of the layouts.
  static constexpr int kBoxColumns = HeadDim % 64 == 0 ? 64 : 32;
  static_assert(HeadDim % kBoxColumns == 0);
  static constexpr int kBytesRows = kRows * HeadDim * int(sizeof(Element));
  static constexpr int kBytesTile = kColumns * HeadDim * int(sizeof(Element));

  // Scores (64, columns), both operands from shared memory; results (64, D), the weights from registers.
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float,
                                 cute::Shape<cute::_64, cute::Int<kColumns>, cute::Int<HeadDim>>>()));
  using MmaOutput = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float,
                                 cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kColumns>>, cute::GMMA::Major::K,
                                 cute::GMMA::Major::MN>()));

  /// Mask words: word w of a row holds the columns 64 w to 64 w + 63 of the tile.
  static constexpr int kMaskWords = (kColumns + 63) / 64;
  static constexpr int kMaskSlots = kTuning.pipeline.mask_slots;

  /// Of 32 rows against a tile of columns.
  enum ChunkState : unsigned char { kEmpty = 0, kPartial = 1, kFull = 2 };
  static constexpr int kChunks = kRows / 32;

  /// What the producers tell the consumers about the tile in a K stage.
  struct TileNote {
    unsigned char state[kChunks];
    bool masked;  ///< the tile has mask words, in the next slot of their ring
    bool last;    ///< of the sweep
  };

  struct Stages {
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutRowTiles>> rows;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutFirst>> first;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutSecond>> second;
  };

  /// Under: what lies before it, which has 1024-byte alignments. Storage is one line of bases, since the compiler asks
  /// whether an address is null before it adds the offset of a second base.
  template <class Under>
  struct Control : Under {
    uint64_t mask_bits[kMaskSlots][kMaskWords][kRows];
    cutlass::arch::ClusterTransactionBarrier rows_full[kRowBuffers], first_full[kFirstStages],
        second_full[kSecondStages], zero_fill;
    cutlass::arch::ClusterBarrier rows_empty[kRowBuffers], first_empty[kFirstStages], second_empty[kSecondStages],
        mask_empty[kMaskSlots];
    WorkTile work[kWorkSlots];  ///< of the consumers, and the one that the producers work on
    int work_slot;              ///< the latter
    // Of the producers, whose registers are few.
    int first_item, next_item;  ///< pieces: of this team the first one, and the one that it claimed last
    int rounds;                 ///< dealt out so far
    Ring<kRowBuffers> row_ring;
    TileNote note[kFirstStages];

    static constexpr int kReaders = 4 * kConsumers;  ///< warps that give a stage back

    /// By one thread before all others begin; the barriers are known to them after a fence.
    __device__ __forceinline__ void start(int team) {
      for (auto& full : rows_full) full.init(1);
      for (auto& full : first_full) full.init(1 + kProducerWarps);
      for (auto& full : second_full) full.init(1);
      for (auto& empty : rows_empty) empty.init(kReaders);
      for (auto& empty : first_empty) empty.init(kReaders);
      for (auto& empty : second_empty) empty.init(kReaders);
      for (auto& empty : mask_empty) empty.init(kReaders);
      zero_fill.init(1);
      row_ring = {};
      work_slot = kWorkSlots - 1;
      first_item = next_item = int(blockIdx.x) * kTeams + team;
      rounds = 0;
    }
  };
};

}  // namespace collective
SPLASH_NAMESPACE_END
