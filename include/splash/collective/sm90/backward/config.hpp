// Types of one Hopper backward kernel: tiles, shared-memory layouts, matrix instructions, shared storage.
//
// dQ and (dK, dV) are found by kernels of one form. Rows are queries or keys; two tensors of rows, A1 and A2, stay in
// shared memory while tiles of two others, B1 and B2, stream past:
//   S = A1 B1^T   dP = A2 B2^T   P = weights(S)   dS = P (dP - delta)   out1 += dS B1   out2 += P B2
//   rows are queries: A1 = Q, A2 = dO, B1 = K, B2 = V, out1 = dQ
//   rows are keys:    A1 = K, A2 = V, B1 = Q, B2 = dO, out1 = dK, out2 = dV
// The kernels of an instance, and what each has of the flags below:
//   kPass        rows     finds             kKeyMajor  kAll  kCloses  kPreset       kLateMask  kZeroFillRows
//   queries      queries  dQ                -          -     -        -             -           -
//   keys_values  keys     dK and dV         yes        -     -        of two teams  -           -
//   all          keys     dK, dV, adds dQ   yes        yes   -        -             yes         yes
//   closed       keys     dK, dV and dQ     yes        yes   yes      -             yes         -
// So nothing is added up in global memory: gradients repeat bit for bit. One more kernel saves two of the seven
// products for long rows, in no fixed order: rows are keys, and dS^T K of each tile is added to dQ in float32. Where no
// other piece has keys for a tile's queries, that product is dQ, and leaves at once. Where dK and dV of 64 keys are too
// many registers for one consumer group, two groups have one each of the same keys.
#pragma once

#include "splash/collective/sm90/tiles.hpp"
#include "splash/patterns/transpose.hpp"
#include "splash/tuning/sm90/backward.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// Maps of A1 and A2, B1 and B2, out1 and out2, as in the forward.
struct MapsBackwardSm90 {
  CUtensorMap a[2][2], k[2], v[2], out[2][2];
  int long_query_classes, long_key_classes;  ///< of rows and of columns
  int fold_a_head[2], fold_a_batch[2], fold_k_head, fold_k_batch, fold_v_head, fold_v_batch;

  __device__ __forceinline__ RowMapsSm90 rows(int tensor) const {
    return {a[tensor], fold_a_head[tensor], fold_a_batch[tensor]};
  }
};

template <class Element, int HeadDim, auto Tuning>
using BackwardTilesSm90 = TilesSm90<Element, HeadDim, Tuning, 2, Tuning.schedule.epilogue_overlap,
                                    Tuning.schedule.by_output ? 1 : Tuning.tile.consumers>;

template <patterns::Pattern Pattern_, normalizers::Normalizer Normalizer_, class Element_, int HeadDim,
          tuning::Gradients Pass, tuning::Spans Span = tuning::Spans::any>
struct ConfigBackwardSm90 : BackwardTilesSm90<Element_, HeadDim, tuning::kBackwardSm90<Pattern_, HeadDim, Pass, Span>> {
  using Pattern = Pattern_;
  using Normalizer = Normalizer_;
  using Element = Element_;
  using Tiles = BackwardTilesSm90<Element, HeadDim, tuning::kBackwardSm90<Pattern, HeadDim, Pass, Span>>;
  using Tiles::kConsumers, Tiles::kColumns, Tiles::kFirstStages, Tiles::kProducerWarps, Tiles::kRowBuffers,
      Tiles::kRowGroups, Tiles::kRows, Tiles::kWorkSlots;

  static_assert(tuning::has_spans<Pattern>(Span), "lists64 and lists128 are for lists of blocks, narrow for others");
  static constexpr tuning::Gradients kPass = Pass;
  static constexpr bool kKeyMajor = Pass != tuning::Gradients::queries;
  static constexpr bool kCloses = Pass == tuning::Gradients::closed;       ///< dQ of a tile is whole
  static constexpr bool kAll = Pass == tuning::Gradients::all || kCloses;  ///< dQ beside out1 and out2
  static constexpr int kOutputs = kKeyMajor ? 2 : 1;

  // What the producers ask.
  using View = cute::conditional_t<kKeyMajor, patterns::KeyMajor<Pattern>, const Pattern&>;
  using Maps = MapsBackwardSm90;
  static constexpr bool kScoreSweeps = false, kMarks = false, kSelects = false;
  /// Producers with few registers collect the tiles of patterns whose walks take many.
  static constexpr bool kBatchedWalk =
      Tiles::kTeams > 1 || (Span == tuning::Spans::lists128 && Tiles::kTuning.registers.producer < 64);
  /// 0 * NaN. Where kCloses each row and column keeps its own.
  static constexpr bool kZeroFillFirst = !kCloses, kZeroFillSecond = kKeyMajor && !kCloses;
  static constexpr bool kZeroFillRows = kAll && !kCloses;
  static constexpr bool kColumnStats = kKeyMajor;
  static constexpr bool kColumn = false;
  /// S and dP begin as the row statistics of their columns instead of 0, so that these take no registers of their own.
  static constexpr bool kPreset = kKeyMajor && Tiles::kTeams > 1 && normalizers::kHasShiftFactor<Normalizer>;
  /// Mask words come after their tile, while its products run: no group lets a tile pass because of them.
  static constexpr bool kLateMask = kAll;
  static constexpr float2 kNoStats = {math::kInfinity<float>, 0.0f};  ///< of a query that is not there

  /// One group finds P and dV, the other one dS and dK, of the same rows.
  static constexpr bool kByOutput = Tiles::kTuning.schedule.by_output;

  // dQ of a tile is dS^T K, (queries, D) in halves, one a group: of 64 queries by columns of D, of 128 by queries.
  // dS (64 queries, 64 keys, half tile, buffer and group), queries contiguous; K (columns of D, 64 keys, tile of rows
  // and part).
  static constexpr int kQueryParts = kAll ? kColumns / 64 : 1, kDimParts = kAll ? kConsumers / kQueryParts : 1;
  static constexpr int kPartDim = HeadDim / kDimParts;
  static constexpr int kScoreBuffers = 2;
  static_assert(!kAll ||
                (kColumns % 64 == 0 && kQueryParts * kDimParts == kConsumers && kPartDim % Tiles::kBoxColumns == 0));
  using AtomS = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element, cute::_64,
                                                                             cute::_64>());
  using LayoutS = decltype(cute::tile_to_shape(
      AtomS{}, cute::Shape<cute::_64, cute::_64, cute::Int<kQueryParts * kScoreBuffers * kConsumers>>{}));
  static SPLASH_HD constexpr int score_tile(int part, int buffer, int group) {
    return (group * kScoreBuffers + buffer) * kQueryParts + part;
  }
  using AtomPart = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element,
                                                                                cute::Int<kPartDim>, cute::_64>());
  using LayoutPart = decltype(cute::tile_to_shape(
      AtomPart{}, cute::Shape<cute::Int<kPartDim>, cute::_64, cute::Int<kConsumers * kRowBuffers * kDimParts>>{},
      cute::Step<cute::_2, cute::_1, cute::_3>{}));
  using MmaQueries = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kPartDim>, cute::Int<kRows>>,
                                 cute::GMMA::Major::MN, cute::GMMA::Major::MN>()));

  /// Of the fused pass.
  struct Scores : Tiles::Stages {
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutS>> ds;
  };
  struct Fused : Tiles::template Control<Scores> {
    cutlass::arch::ClusterBarrier ds_full[kScoreBuffers], ds_empty[kScoreBuffers];
    // Of the second tensor of rows where pieces overlap.
    cutlass::arch::ClusterTransactionBarrier late_rows_full;
    cutlass::arch::ClusterBarrier late_rows_empty;
    Ring<1> late_rows_ring;        ///< of the producers
    int query_tile[kFirstStages];  ///< of the float32 dQ
    // Of the producers: registers are few.
    unsigned unread_rows[kWorkSlots][kProducerWarps];  ///< of a piece: a bit a row
    unsigned zero_fill_phase[kProducerWarps];

    __device__ __forceinline__ void start(int team) {
      Tiles::template Control<Scores>::start(team);
      for (auto& full : ds_full) full.init(4 * kConsumers);
      for (auto& empty : ds_empty) empty.init(4 * kConsumers);
      late_rows_full.init(1);
      late_rows_empty.init(4 * kConsumers);
      late_rows_ring = {};
      for (unsigned& phase : zero_fill_phase) phase = 0;
    }
  };

  /// Of groups that have one output each.
  struct Weights : Tiles::Stages {
    float4 p[kColumns / 8][128];  ///< P on its way from one to the other: 4 registers of each thread at a time
  };
  struct ByOutput : Tiles::template Control<Weights> {
    cutlass::arch::ClusterBarrier p_full, p_empty;

    __device__ __forceinline__ void start(int team) {
      Tiles::template Control<Weights>::start(team);
      p_full.init(4);
      p_empty.init(4);
    }
  };

  using Pipeline = cute::conditional_t<
      kAll, Fused, cute::conditional_t<kByOutput, ByOutput, typename Tiles::template Control<typename Tiles::Stages>>>;

  struct SharedStorage : Pipeline {
    alignas(16) float shift[kColumnStats ? kFirstStages : 1][kColumns];  ///< RowStats of the columns
    alignas(16) float delta[kColumnStats ? kFirstStages : 1][kColumns];
    cutlass::arch::ClusterBarrier mask_full[Tiles::kMaskSlots];  ///< where words come late
    int producer_barrier;                                        ///< of this team

    __device__ __forceinline__ void start(int team) {
      Pipeline::start(team);
      for (auto& full : mask_full) full.init(kProducerWarps);
      // A second team takes a barrier of consumers who take turns, which teams do not.
      producer_barrier = team ? kTurn : kProducers;
      cutlass::arch::fence_barrier_init();
    }
  };
};

}  // namespace collective
SPLASH_NAMESPACE_END
