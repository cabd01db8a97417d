// Types of one Hopper instance that finds candidates: the producers of the forward, which send keys alone.
#pragma once

#include "splash/collective/sm90/forward/config.hpp"
#include "splash/tuning/sm90/candidates.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

template <patterns::Pattern Pattern_, normalizers::Normalizer Normalizer_, class Element, int HeadDim,
          tuning::Spans Span>
struct ConfigCandidatesSm90 : TilesSm90<Element, HeadDim, tuning::candidates_sm90(HeadDim, Span), 1> {
  using Pattern = Pattern_;
  using Normalizer = Normalizer_;
  using Tiles = TilesSm90<Element, HeadDim, tuning::candidates_sm90(HeadDim, Span), 1>;

  // What the producers ask.
  using View = const Pattern&;
  using Maps = MapsForwardSm90;
  static constexpr bool kKeyMajor = false, kAll = false, kZeroFillRows = false, kLateMask = false, kBatchedWalk = false,
                        kScoreSweeps = true, kMarks = true, kSelects = false;
  static constexpr bool kZeroFillFirst = false, kZeroFillSecond = false;
  static constexpr bool kColumnStats = false;
  static constexpr bool kColumn = true;

  static constexpr int kMarkWords = tuning::kTileMarks / 32;

  struct NoValues {
    __device__ __forceinline__ Element* begin() const { return nullptr; }
  };
  struct Stages {
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<typename Tiles::LayoutRowTiles>> rows;
    alignas(1024) cute::ArrayEngine<Element, cute::cosize_v<typename Tiles::LayoutFirst>> first;
    NoValues second;
  };

  struct SharedStorage : Tiles::template Control<Stages> {
    cutlass::arch::ClusterBarrier swept;
    int votes[3];                       ///< of the last sweep, this one and the next: bits of Again
    int sweeps[Tiles::kProducerWarps];  ///< that a producer warp has heard of
    int first_column[Tiles::kFirstStages];
    uint32_t visited[Tiles::kConsumers][kMarkWords];  ///< tiles that had scores for a group
    uint32_t marks[Tiles::kConsumers][kMarkWords];    ///< of these, the ones that have candidates

    __device__ __forceinline__ void start() {
      Tiles::template Control<Stages>::start(0);
      swept.init(1);
      for (int& slot : votes) slot = 0;
      for (int& count : sweeps) count = 0;
      for (int g = 0; g < Tiles::kConsumers; ++g)
        for (int w = 0; w < kMarkWords; ++w) visited[g][w] = marks[g][w] = 0;
      cutlass::arch::fence_barrier_init();
    }

    /// Whether any group looks at the tiles of this mark again.
    __device__ __forceinline__ bool marked(int mark) const {
      uint32_t bits = 0;
      for (int g = 0; g < Tiles::kConsumers; ++g) bits |= marks[g][mark >> 5];
      return bits >> (mark & 31) & 1;
    }
  };
};

}  // namespace collective
SPLASH_NAMESPACE_END
