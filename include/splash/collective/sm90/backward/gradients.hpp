// What the Hopper backward consumers share: what they are given, and the row statistics that their scores meet.
#pragma once

#include "splash/collective/sm90/backward/config.hpp"
#include "splash/collective/sm90/consumer.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct GradientsSm90 : ConsumerSm90<Config> {
  using Base = ConsumerSm90<Config>;
  using Base::group, Base::release, Base::shared, Base::thread;
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;

  /// Of this thread's rows, where rows are queries.
  struct RowStats {
    float shift[kFragmentRows], delta[kFragmentRows];
  };

  /// dQ where it leaves at once; strides in elements.
  struct Queries {
    Element* data;
    int64_t row_stride, head_stride, batch_stride;
    patterns::FastDivide tiles{1}, heads{1};  ///< of a head; of a batch entry
    int num_queries, head_dim;
    float scale;
  };

  struct Params {
    Normalizer normalizer;
    float sign;       ///< of the scale; raw scores are multiplied by it where it is not 1
    bool dots;        ///< rows are queries: sum P dP of each is wanted
    float4* queries;  ///< where kAll: tiles of dQ, (part, 4 registers, thread) each
    Queries closed;   ///< where kCloses, instead
  };

  const Params& params;

  __device__ __forceinline__ GradientsSm90(const Params& params, typename Config::SharedStorage& shared, int group,
                                           int thread)
      : Base(shared, group, thread), params(params) {}

 protected:
  using Base::first_;

  /// f(register, statistic of its query) for all scores of this thread. `row_stats`: of the columns, by stage, where
  /// these are queries; own: of the rows otherwise. Few columns at a time, since all of their statistics are too many
  /// registers.
  template <class Columns, class F>
  __device__ __forceinline__ void each_score(const float (&own)[kFragmentRows], const Columns& row_stats,
                                             const F& f) const {
    CUTE_UNROLL
    for (int n = 0; n < Config::kColumns / 8; ++n) {
      float2 columns{};
      if constexpr (Config::kKeyMajor && !Config::kPreset) {
        if (n % (Config::kAll || Config::kByOutput ? 2 : 4) == 0) forget_memory();
        columns = *reinterpret_cast<const float2*>(&row_stats[first_.slot()][8 * n + 2 * (thread & 3)]);
      }
      CUTE_UNROLL
      for (int e = 0; e < 2; ++e) {
        CUTE_UNROLL
        for (int r = 0; r < kFragmentRows; ++r)
          f(4 * n + 2 * r + e, !Config::kKeyMajor ? own[r] : (e == 0 ? columns.x : columns.y));
      }
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
