// Types of one Hopper backward kernel: tiles, shared-memory layouts, matrix instructions, shared storage.
//
// dQ and (dK, dV) are found by kernels of one form. Rows are queries or keys; two tensors of rows, A1 and A2, stay in
// shared memory while tiles of two others, B1 and B2, stream past:
//   S = A1 B1^T   dP = A2 B2^T   P = weights(S)   dS = P (dP - delta)   out1 += dS B1   out2 += P B2
//   rows are queries: A1 = Q, A2 = dO, B1 = K, B2 = V, out1 = dQ
//   rows are keys:    A1 = K, A2 = V, B1 = Q, B2 = dO, out1 = dK, out2 = dV
// So nothing is added up in global memory: gradients repeat bit for bit. One more kernel saves two of the seven
// products for long rows, in no fixed order: rows are keys, and dS^T K of each tile is added to dQ in float32. Where no
// other piece has keys for a tile's queries, that product is dQ, and leaves at once.
#pragma once

#include "splash/collective/tiles_sm90.hpp"
#include "splash/patterns/transpose.hpp"
#include "splash/tuning/backward_sm90.hpp"

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

template <patterns::Pattern Pattern, int HeadDim, tuning::Gradients Pass, int Block>
inline constexpr tuning::BackwardSm90 kBackwardTuning =
    Block > 0 && Pass != tuning::Gradients::closed
        ? tuning::backward_blocks_sm90(HeadDim, Pass)
        : tuning::backward_sm90(HeadDim, Pass, patterns::SimplePattern<Pattern>);

template <patterns::Pattern Pattern, class Element, int HeadDim, tuning::Gradients Pass, int Block>
using BackwardTilesSm90 = TilesSm90<Element, HeadDim, kBackwardTuning<Pattern, HeadDim, Pass, Block>,
                                    Pass == tuning::Gradients::values ? 1 : 2>;

/// Block > 0: the instance is made for lists of blocks, or for short spans.
template <patterns::Pattern Pattern_, normalizers::Normalizer Normalizer_, class Element_, int HeadDim,
          tuning::Gradients Pass, int Block = 0>
struct ConfigBackwardSm90 : BackwardTilesSm90<Pattern_, Element_, HeadDim, Pass, Block> {
  using Pattern = Pattern_;
  using Normalizer = Normalizer_;
  using Element = Element_;
  using Tiles = BackwardTilesSm90<Pattern, Element, HeadDim, Pass, Block>;
  using Tiles::kConsumers, Tiles::kKeys, Tiles::kKeyStages, Tiles::kProducerWarps, Tiles::kQueryBuffers, Tiles::kRows,
      Tiles::kWorkSlots;

  static constexpr tuning::Gradients kPass = Pass;
  static constexpr bool kKeyMajor = Pass != tuning::Gradients::queries;
  static constexpr bool kFirst = Pass != tuning::Gradients::values;        ///< out1, and so dP
  static constexpr bool kCloses = Pass == tuning::Gradients::closed;       ///< dQ of a tile is whole
  static constexpr bool kAll = Pass == tuning::Gradients::all || kCloses;  ///< dQ beside out1 and out2
  static constexpr bool kSecond = Pass == tuning::Gradients::keys_values || Pass == tuning::Gradients::values || kAll;
  static constexpr int kOutputs = int(kFirst) + int(kSecond);

  // What the producers ask.
  using View = cute::conditional_t<kKeyMajor, patterns::KeyMajor<Pattern>, const Pattern&>;
  using Maps = MapsBackwardSm90;
  static constexpr bool kScoreSweeps = false;
  /// 0 * NaN. Where kCloses each row and column keeps its own.
  static constexpr bool kScrubFirst = kFirst && !kCloses, kScrubSecond = kSecond && !kCloses;
  static constexpr bool kScrubRows = kAll && !kCloses;
  static constexpr bool kColumnNumbers = kKeyMajor;
  /// S and dP begin as the numbers of their columns instead of 0, so that these take no registers of their own.
  static constexpr bool kPreset = kKeyMajor && Block > 0 && !kCloses;
  static constexpr float2 kNoNumbers = {math::kInfinity<float>, 0.0f};  ///< of a query that is not there

  // dQ of a tile is dS^T K, (queries, D) in halves, one a group: of 64 queries by columns of D, of 128 by queries.
  // dS (64 queries, keys, half tile and buffer), queries contiguous; K (columns of D, 64 keys, tile of rows and part).
  static constexpr int kQueryParts = kAll ? kKeys / 64 : 1, kDimParts = kAll ? kConsumers / kQueryParts : 1;
  static constexpr int kPartDim = HeadDim / kDimParts;
  static constexpr int kScoreBuffers = 2;
  static_assert(!kAll ||
                (kKeys % 64 == 0 && kQueryParts * kDimParts == kConsumers && kPartDim % Tiles::kBoxColumns == 0));
  using AtomS = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element, cute::_64,
                                                                             cute::Int<kRows>>());
  using LayoutS = decltype(cute::tile_to_shape(
      AtomS{}, cute::Shape<cute::_64, cute::Int<kRows>, cute::Int<kQueryParts * kScoreBuffers>>{}));
  using AtomPart = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element,
                                                                                cute::Int<kPartDim>, cute::_64>());
  using LayoutPart = decltype(cute::tile_to_shape(
      AtomPart{}, cute::Shape<cute::Int<kPartDim>, cute::_64, cute::Int<kConsumers * kQueryBuffers * kDimParts>>{},
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
    int query_tile[kKeyStages];  ///< of the float32 dQ
    // Of the producers: registers are few.
    unsigned dead_rows[kWorkSlots][kProducerWarps];  ///< of a piece: a bit a row
    unsigned scrub_phase[kProducerWarps];

    __device__ __forceinline__ void start(int team) {
      Tiles::template Control<Scores>::start(team);
      for (auto& full : ds_full) full.init(4 * kConsumers);
      for (auto& empty : ds_empty) empty.init(4 * kConsumers);
      for (unsigned& phase : scrub_phase) phase = 0;
    }
  };
  using Pipeline = cute::conditional_t<kAll, Fused, typename Tiles::template Control<typename Tiles::Stages>>;

  struct SharedStorage : Pipeline {
    alignas(16) float shift[kColumnNumbers ? kKeyStages : 1][kKeys];  ///< RowNumbers of the columns
    alignas(16) float delta[kColumnNumbers ? kKeyStages : 1][kKeys];
    int producer_barrier;  ///< of this team

    __device__ __forceinline__ void start(int team) {
      Pipeline::start(team);
      // A second team takes a barrier of consumers who take turns, which teams do not.
      producer_barrier = team ? kTurn : kProducers;
      cutlass::arch::fence_barrier_init();
    }
  };
};

}  // namespace collective
SPLASH_NAMESPACE_END
