// Types of one Hopper backward kernel: tiles, shared-memory layouts, matrix instructions, shared storage.
//
// dQ and (dK, dV) are found by kernels of one form. Rows are queries or keys; two tensors of rows, A1 and A2, stay in
// shared memory while tiles of two others, B1 and B2, stream past:
//   S = A1 B1^T   dP = A2 B2^T   P = weights(S)   dS = P (dP - delta)   out1 += dS B1   out2 += P B2
//   rows are queries: A1 = Q, A2 = dO, B1 = K, B2 = V, out1 = dQ
//   rows are keys:    A1 = K, A2 = V, B1 = Q, B2 = dO, out1 = dK, out2 = dV
// So nothing is added up in global memory: gradients repeat bit for bit. One more kernel saves two of the seven
// products for long rows, in no fixed order: rows are keys, and dS^T K of each tile is added to dQ in float32.
#pragma once

#include "splash/collective/config_forward_sm90.hpp"
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

template <patterns::Pattern Pattern_, normalizers::Normalizer Normalizer_, class Element_, int HeadDim,
          tuning::Gradients Pass, int Block = 0>
struct ConfigBackwardSm90 {
  using Pattern = Pattern_;
  using Normalizer = Normalizer_;
  using Element = Element_;

  static constexpr tuning::Gradients kPass = Pass;
  static constexpr bool kKeyMajor = Pass != tuning::Gradients::queries;
  static constexpr bool kFirst = Pass != tuning::Gradients::values;  ///< out1, and so dP
  static constexpr bool kAll = Pass == tuning::Gradients::all;       ///< dQ beside out1 and out2
  static constexpr bool kSecond = Pass == tuning::Gradients::keys_values || Pass == tuning::Gradients::values || kAll;
  static constexpr int kOutputs = int(kFirst) + int(kSecond);

  static constexpr bool kBlocks = Block > 0;  ///< the instance is made for lists of blocks, or for short spans
  static constexpr tuning::BackwardSm90 kTuning =
      kBlocks ? tuning::backward_blocks_sm90(HeadDim, Pass)
              : tuning::backward_sm90(HeadDim, Pass, patterns::SimplePattern<Pattern>);
  static constexpr int kHeadDim = HeadDim;
  static constexpr int kTeams = kTuning.teams;  ///< the rest is of one team
  static constexpr int kConsumers = kTuning.consumers;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kKeys = kTuning.tile_columns;  ///< columns of a tile, keys or queries
  static constexpr int kKeyStages = kTuning.first_stages, kValueStages = kTuning.second_stages;
  static constexpr int kQueryBuffers = kTuning.row_buffers;
  static constexpr int kWorkSlots = kQueryBuffers + 1;
  static constexpr int kProducerWarps = kTuning.producer_warps;
  static constexpr int kThreads = kTeams * (128 * kConsumers + 32 * kProducerWarps);
  static_assert(HeadDim % 16 == 0 && kKeys % 16 == 0, "wgmma steps 16 deep");
  static constexpr int kLaunchRegisters = 65536 / kTuning.blocks_per_sm / kThreads / 8 * 8;
  static_assert(kTeams * kConsumers * kTuning.consumer_registers + kTuning.producer_registers <=
                    kLaunchRegisters * (kTeams * kConsumers + 1),
                "setmaxnreg asks for more registers than the launch gave the thread block");
  static_assert(kTuning.consumer_registers == 0 || kTeams * kProducerWarps == 4, "setmaxnreg takes whole warp groups");

  // What the producers ask.
  using View = cute::conditional_t<kKeyMajor, patterns::KeyMajor<Pattern>, const Pattern&>;
  using Maps = MapsBackwardSm90;
  static constexpr bool kScoreSweeps = false;
  static constexpr bool kScrubFirst = kFirst, kScrubSecond = kSecond;  ///< 0 * NaN
  static constexpr bool kColumnNumbers = kKeyMajor;
  /// S and dP begin as the numbers of their columns instead of 0, so that these take no registers of their own.
  static constexpr bool kPreset = kKeyMajor && kBlocks;
  static constexpr float2 kNoNumbers = {math::kInfinity<float>, 0.0f};  ///< of a query that is not there
  static constexpr int kRowTensors = kFirst ? 2 : 1;
  /// Where a tile of 64 rows lies: of A1 or A2, and of out1 or out2 when they leave.
  static SPLASH_HD constexpr int row_tile(int tensor, int buffer, int group) {
    return (tensor * kQueryBuffers + buffer) * kConsumers + group;
  }

  // (64, D, tile), D contiguous
  using AtomRows = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element,
                                                                                cute::Int<64>, cute::Int<HeadDim>>());
  using LayoutQ = decltype(cute::tile_to_shape(
      AtomRows{}, cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kConsumers * kQueryBuffers * kRowTensors>>{}));
  // (columns, D, stage), D contiguous: B1 and B2 where they meet rows
  using AtomK = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::K, Element,
                                                                             cute::Int<kKeys>, cute::Int<HeadDim>>());
  template <int Stages>
  using LayoutColumns =
      decltype(cute::tile_to_shape(AtomK{}, cute::Shape<cute::Int<kKeys>, cute::Int<HeadDim>, cute::Int<Stages>>{}));
  // (D, columns, stage), D contiguous: the same bytes where weights meet them
  using AtomV = decltype(cutlass::gemm::collective::detail::ss_smem_selector<cute::GMMA::Major::MN, Element,
                                                                             cute::Int<HeadDim>, cute::Int<kKeys>>());
  template <int Stages>
  using LayoutTransposed =
      decltype(cute::tile_to_shape(AtomV{}, cute::Shape<cute::Int<HeadDim>, cute::Int<kKeys>, cute::Int<Stages>>{},
                                   cute::Step<cute::_2, cute::_1, cute::_3>{}));
  using LayoutK = LayoutColumns<kKeyStages>;
  using LayoutV = LayoutTransposed<kValueStages>;
  static constexpr int kBoxColumns = HeadDim % 64 == 0 ? 64 : 32;
  static_assert(HeadDim % kBoxColumns == 0);

  // S and dP (64, columns), both operands from shared memory; out (64, D), the weights from registers.
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float,
                                 cute::Shape<cute::_64, cute::Int<kKeys>, cute::Int<HeadDim>>>()));
  using MmaOutput = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<HeadDim>, cute::Int<kKeys>>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));

  // dQ of a tile is dS^T K, (queries, D) in halves, one a group: of 64 queries by columns of D, of 128 by queries.
  // dS (64 queries, keys, half tile and buffer), queries contiguous; K (columns of D, 64 keys, tile of rows and part).
  static constexpr int kQueryParts = kAll ? kKeys / 64 : 1, kDimParts = kAll ? kConsumers / kQueryParts : 1;
  static constexpr int kPartDim = HeadDim / kDimParts;
  static constexpr int kScoreBuffers = 2;
  static_assert(!kAll || (kKeys % 64 == 0 && kQueryParts * kDimParts == kConsumers && kPartDim % kBoxColumns == 0));
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
  static constexpr int kScoreElements = kAll ? int(cute::cosize_v<LayoutS>) : 8;

  static constexpr int kWords = (kKeys + 63) / 64;
  static constexpr int kWordSlots = kTuning.word_slots;
  enum ChunkState : unsigned char { kEmpty = 0, kPartial = 1, kFull = 2 };
  static constexpr int kChunks = kRows / 32;

  struct TileNote {
    unsigned char state[kChunks];
    bool words;      ///< the tile has mask words, in the next slot of their ring
    bool last;       ///< of the sweep
    int query_tile;  ///< of the float32 dQ, where kAll
  };

  struct SharedStorage {
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutQ>> q;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutK>> k;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<LayoutV>> v;
    alignas(1024) cute::ArrayEngine<Element, kScoreElements> ds;
    alignas(16) float shift[kColumnNumbers ? kKeyStages : 1][kKeys];  ///< RowNumbers of the columns
    alignas(16) float delta[kColumnNumbers ? kKeyStages : 1][kKeys];
    uint64_t words[kWordSlots][kWords][kRows];
    cutlass::arch::ClusterTransactionBarrier q_full[kQueryBuffers], k_full[kKeyStages], v_full[kValueStages], scrub;
    cutlass::arch::ClusterBarrier q_empty[kQueryBuffers], k_empty[kKeyStages], v_empty[kValueStages],
        words_empty[kWordSlots], swept, ds_full[kScoreBuffers], ds_empty[kScoreBuffers];
    Work work[kWorkSlots];           ///< of the consumers, and the one that the producers work on
    int work_slot;                   ///< the latter
    int first_item, rounds;          ///< of the producers: their first piece, rounds dealt out so far
    int producer_barrier;            ///< of this team
    Ring<kQueryBuffers> query_ring;  ///< of the producers
    TileNote note[kKeyStages];
    // Where kAll, of the producers: registers are few.
    unsigned dead_rows[kWorkSlots][kProducerWarps];  ///< of a piece: a bit a row
    unsigned scrub_phase[kProducerWarps];
    int votes[3];
  };

  static_assert(kTeams == 1 || (kTeams == 2 && kConsumers == 1), "named barriers");

  static constexpr int kBytesQ = kRows * HeadDim * int(sizeof(Element));
  static constexpr int kBytesTile = kKeys * HeadDim * int(sizeof(Element));
};

}  // namespace collective
SPLASH_NAMESPACE_END
