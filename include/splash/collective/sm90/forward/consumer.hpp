// Hopper forward consumers: S = Q K^T, W = normalizer(S), O = W V, tile after tile of what the producers send.
//
// One to three consumer warp groups own 64 query rows each of a WorkTile. A sweep is one walk over the tiles: score
// sweeps bring K alone, the output sweep K and V. Overlap. Q K^T of tile n + 1 and W V of tile n are in flight
// together; the normalizer works on tile n + 1 while W V drains. Consumer groups may take turns to issue. Registers of
// a consumer thread (D 128, 128 keys): S 64, O 64, W 32, state and addresses about 40.
#pragma once

#include "splash/collective/sm90/consumer.hpp"
#include "splash/collective/sm90/forward/config.hpp"
#include "splash/collective/sm90/hooks.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct ConsumerForwardSm90 : ConsumerSm90<Config> {
  using Base = ConsumerSm90<Config>;
  using Base::group, Base::release, Base::shared, Base::thread;
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;
  using Rows = typename Normalizer::template Rows<float, kFragmentRows>;

  static_assert(normalizers::forward_calls_all_hooks<Normalizer, kForwardHooksSm90>());
  static_assert(patterns::hooks_are_spelled_right<typename Config::Pattern>());

  static constexpr int kVoters = 128 * Config::kConsumers;

  struct Params {
    Normalizer normalizer;
    float sign;  ///< of the scale; raw scores are multiplied by it where it is not 1
  };

  const Params& params;
  int sweeps_ = 0;

  __device__ __forceinline__ ConsumerForwardSm90(const Params& params, typename Config::SharedStorage& shared,
                                                 int group, int thread)
      : Base(shared, group, thread), params(params) {}

  /// On return `output` holds the group's 64 rows of O, not yet multiplied by the rows' output_factor.
  /// under_product() is called once, while the first product runs or where there is none; it may change the O and the
  /// rows that there are nothing of yet.
  template <class Output, class UnderProduct>
  __device__ __forceinline__ void consume(int query_buffer, Output& output, Rows& rows,
                                          const UnderProduct& under_product) {
    const Normalizer& normalizer = params.normalizer;
    const QuadReduce reduce;

    Tensor sQ = make_tensor(make_smem_ptr(shared.rows.begin()),
                            typename Config::LayoutRowTiles{});  // (64, D, groups * buffers)
    Tensor sK = make_tensor(make_smem_ptr(shared.first.begin()), typename Config::LayoutFirst{});    // (keys, D, stage)
    Tensor sV = make_tensor(make_smem_ptr(shared.second.begin()), typename Config::LayoutSecond{});  // (D, keys, stage)
    typename Config::MmaScores mma_scores;
    typename Config::MmaOutput mma_output;
    auto thread_scores = mma_scores.get_thread_slice(thread);
    auto thread_output = mma_output.get_thread_slice(thread);
    // Descriptors (1, 1, D / 16) of the Q tile, made anew for each product: kept, they would be a register a step.
    const auto tSrQ = [&] {
      int tile = query_buffer * Config::kConsumers + group;
      forget(tile);
      return thread_scores.partition_fragment_A(sQ(_, _, tile));
    };
    Tensor tSrK = thread_scores.partition_fragment_B(sK);  // descriptors (1, 1, D / 16, stage)
    Tensor tOrV = thread_output.partition_fragment_B(sV);  // descriptors (1, 1, keys / 16, stage)
    CUTE_STATIC_ASSERT_V(size<2>(tSrK) == Int<Config::kHeadDim / 16>{});
    CUTE_STATIC_ASSERT_V(size<2>(tOrV) == Int<Config::kColumns / 16>{});

    auto scores = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kColumns>>{});  // ((2, 2, keys / 8), 1, 1)
    CUTE_STATIC_ASSERT_V(size(scores) == Int<Config::kColumns / 2>{});
    // The accumulator registers of 16 keys are, in order, the A operand of those keys.
    auto weights = make_tensor<Element>(Shape<Shape<_2, _2, _2>, _1, Int<Config::kColumns / 16>>{});
    AccumulatorFragment<decltype(scores), Config::kColumn> fragment{scores};

    // The scores of the tile in the current K stage, masked; frees the stage.
    auto finish_scores = [&](const Note& note) {
      warpgroup_fence_operand(scores);
      if constexpr (Config::kColumn) fragment.first_column = shared.first_column[first_.slot()];
      release(shared.first_empty[first_.slot()]);
      first_.advance();
      if (params.sign != 1.0f)
        for (int e = 0; e < size(scores); ++e) scores(e) *= params.sign;
      if (note.masked) {
        if (note.state == Config::kPartial) mask(scores, -math::kInfinity<float>);
        release_mask();
      }
    };

    if constexpr (Normalizer::kScoreSweeps) {
      do {
        for (Note note; next_live(note, false);) {
          multiply(mma_scores, tSrQ(), tSrK(_, _, _, first_.slot()), scores, true);
          warpgroup_wait<0>();
          finish_scores(note);
          rows.observe(normalizer, fragment);
          if (note.last) break;
        }
      } while (vote(rows.refine(normalizer, reduce)));
    }

    clear(output);
    float rescale[kFragmentRows];
    bool waiting = !Normalizer::kScoreSweeps;
    if constexpr (Normalizer::kScoreSweeps) under_product();
    for (Note note; next_live(note, true);) {
      take_turn();
      multiply(mma_scores, tSrQ(), tSrK(_, _, _, first_.slot()), scores, true);
      pass_turn();
      if (waiting) under_product();
      waiting = false;
      warpgroup_wait<0>();
      finish_scores(note);
      if constexpr (Normalizer::kRescales) rows.meet(normalizer, fragment, rescale, reduce);
      rows.weigh(normalizer, fragment);
      rescale_rows(output, rescale);
      to_elements(scores, weights);
      bool last = note.last;
      for (; Config::kTuning.schedule.overlap && !last && read_note(note); last = note.last) {
        take_turn();
        multiply(mma_scores, tSrQ(), tSrK(_, _, _, first_.slot()), scores, true);
        wait(shared.second_full[second_.slot()], second_.phase());
        multiply(mma_output, weights, tOrV(_, _, _, second_.slot()), output, false);
        pass_turn();
        warpgroup_wait<1>();
        finish_scores(note);
        if constexpr (Normalizer::kRescales) rows.meet(normalizer, fragment, rescale, reduce);
        stay_before_wait(rescale);
        warpgroup_wait<0>();
        warpgroup_fence_operand(output);
        release_value();
        rows.weigh(normalizer, fragment);
        rescale_rows(output, rescale);
        to_elements(scores, weights);
      }
      // No stage is held when tiles pass: the producers may need it for one of those.
      wait(shared.second_full[second_.slot()], second_.phase());
      multiply(mma_output, weights, tOrV(_, _, _, second_.slot()), output, false);
      warpgroup_wait<0>();
      warpgroup_fence_operand(output);
      release_value();
      if (last) break;
    }
    if (waiting) under_product();
    rows.finish(normalizer, reduce);
  }

 private:
  using Base::first_, Base::mask, Base::next_live, Base::pass_turn, Base::read_note, Base::release_value,
      Base::release_mask, Base::take_turn, Base::to_elements, Base::second_, Base::mask_;
  using typename Base::Note;

  template <class Mma, class A, class B, class C>
  __device__ __forceinline__ static void multiply(Mma& mma, const A& a, const B& b, C& c, bool zero) {
    Base::multiply(mma, a, b, c, zero);
    warpgroup_commit_batch();
  }

  /// Ends a score sweep: true where a row of any consumer needs another one; the producers hear of it.
  __device__ __forceinline__ bool vote(bool again) {
    const int slot = sweeps_++ % 3;
    if (__any_sync(~0u, again) && (thread & 31) == 0) atomicOr(&shared.votes[slot], 1);
    cutlass::arch::NamedBarrier::sync(kVoters, kConsumersOnly);
    if (group == 0 && thread == 0) arrive(shared.swept);
    return __shfl_sync(~0u, (thread & 31) == 0 ? shared.votes[slot] : 0, 0) != 0;
  }

  /// Left alone, ptxas moves the wait for products up to the start of its basic block, and what could run beside them
  /// runs after them. An instruction that hangs on the factors, which are 1 at most, holds it back.
  __device__ __forceinline__ static void stay_before_wait(const float (&rescale)[kFragmentRows]) {
    if constexpr (Normalizer::kRescales)
      if (rescale[0] + rescale[1] > 2.5f) asm volatile("nanosleep.u32 0;");
  }

  /// Most tiles leave the rows of most warps as they are.
  template <class Output>
  __device__ __forceinline__ static void rescale_rows(Output& output, const float (&factor)[kFragmentRows]) {
    if constexpr (!Normalizer::kRescales) return;
    if (!__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) return;
    CUTE_UNROLL
    for (int c = 0; c < size(output) / kFragmentRows; ++c) {
      CUTE_UNROLL
      for (int r = 0; r < kFragmentRows; ++r) output(accumulator_register(r, c)) *= factor[r];
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
