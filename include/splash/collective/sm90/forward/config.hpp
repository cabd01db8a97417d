// Types of one Hopper forward instance: rows are queries, columns keys and values.
#pragma once

#include "splash/collective/sm90/tiles.hpp"
#include "splash/tuning/sm90/forward.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

struct MapsForwardSm90 {
  CUtensorMap q[2], k[2], v[2], out[2];
  int long_query_classes, long_key_classes;
  int fold_q_head, fold_q_batch, fold_k_head, fold_k_batch, fold_v_head, fold_v_batch;

  __device__ __forceinline__ RowMapsSm90 rows(int) const { return {q, fold_q_head, fold_q_batch}; }
};

template <patterns::Pattern Pattern_, normalizers::Normalizer Normalizer_, class Element, int HeadDim,
          tuning::Spans Span>
struct ConfigForwardSm90 : TilesSm90<Element, HeadDim, tuning::forward_sm90<Pattern_, Normalizer_>(HeadDim, Span), 1> {
  using Pattern = Pattern_;
  using Normalizer = Normalizer_;
  using Tiles = TilesSm90<Element, HeadDim, tuning::forward_sm90<Pattern, Normalizer>(HeadDim, Span), 1>;

  static_assert(tuning::has_spans<Pattern>(Span), "lists64 and lists128 are for lists of blocks, narrow for others");

  // What the producers ask.
  using View = const Pattern&;
  using Maps = MapsForwardSm90;
  static constexpr bool kKeyMajor = false, kAll = false, kZeroFillRows = false, kLateMask = false, kBatchedWalk = false,
                        kScoreSweeps = Normalizer::kScoreSweeps, kMarks = false,
                        kSelects = normalizers::kListsCandidates<Normalizer>;
  static constexpr bool kZeroFillFirst = false,
                        kZeroFillSecond = true;  ///< 0 * NaN: of K and V, the one that weights meet
  static constexpr bool kColumnStats = false;
  static constexpr bool kColumn = normalizers::kNeedsColumn<Normalizer>;  ///< consumers know where a tile begins

  struct SharedStorage : Tiles::template Control<typename Tiles::Stages> {
    cutlass::arch::ClusterBarrier swept;
    int votes[3];                       ///< of the last sweep, this one and the next
    int sweeps[Tiles::kProducerWarps];  ///< that a producer warp has heard of
    int first_column[kColumn ? Tiles::kFirstStages : 1];

    __device__ __forceinline__ void start() {
      Tiles::template Control<typename Tiles::Stages>::start(0);
      swept.init(1);
      for (int& slot : votes) slot = 0;
      for (int& count : sweeps) count = 0;
      cutlass::arch::fence_barrier_init();
    }
  };
};

}  // namespace collective
SPLASH_NAMESPACE_END
