// Hopper backward consumers: S and dP, P and dS, and what they add to the gradients, tile after tile.
//
// One or two consumer warp groups own 64 rows each of a WorkTile (config.hpp has the equations).
// Overlap. While a group forms P and dS the products of the other one run; groups may take turns for that. Where
// registers allow it (`overlap`), S of tile n + 1 queues behind the products of tile n, and dP behind S as soon as
// those have let go of p and ds. A group lets tiles pass of which its rows keep nothing; it holds no stage then.
// Registers of a consumer thread (D 128, 64 columns): out1 64, out2 64, S 32, dP 32, P and dS 16 each as S and dP go.
// The fused pass (kAll). Both groups write their dS to shared memory, two tiles of it, and each multiplies half of dQ
// of the tile before, 32 registers once S and dP are gone: dS of the other group is there by then, so neither waits for
// it. No group lets a tile pass.
#pragma once

#include "splash/collective/sm90/backward/fused_queries.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct ConsumerBackwardSm90 : FusedQueriesSm90<Config> {
  using Base = FusedQueriesSm90<Config>;
  using Base::group, Base::params, Base::release, Base::shared, Base::thread;
  using Element = typename Config::Element;
  using typename Base::RowStats;

  static constexpr bool kTurns = Config::kTuning.schedule.pingpong;

  Ring<1> late_rows_{};  ///< where kOverlaps: the second tensor of rows

  using Base::Base;

  /// On return out1 and out2 hold the group's 64 rows of dS B1 and of P B2, and `dots` this thread's share of sum P dP.
  /// under_product() is called once, while the first product runs or where there is none.
  template <class Output, class UnderProduct>
  __device__ __forceinline__ void consume(int buffer, const RowStats& own, Output& out1, Output& out2,
                                          float (&dots)[kFragmentRows], const UnderProduct& under_product) {
    Tensor sRows = make_tensor(make_smem_ptr(shared.rows.begin()), typename Config::LayoutRowTiles{});  // (64, D, tile)
    Tensor sK = make_tensor(make_smem_ptr(shared.first.begin()),
                            typename Config::template LayoutColumns<Config::kFirstStages>{});  // (columns, D, stage)
    Tensor sV = make_tensor(make_smem_ptr(shared.second.begin()),
                            typename Config::template LayoutColumns<Config::kSecondStages>{});
    Tensor sKt =
        make_tensor(make_smem_ptr(shared.first.begin()),
                    typename Config::template LayoutTransposed<Config::kFirstStages>{});  // (D, columns, stage)
    Tensor sVt = make_tensor(make_smem_ptr(shared.second.begin()),
                             typename Config::template LayoutTransposed<Config::kSecondStages>{});
    typename Config::MmaScores mma_scores;
    typename Config::MmaOutput mma_output;
    auto thread_scores = mma_scores.get_thread_slice(thread);
    auto thread_output = mma_output.get_thread_slice(thread);
    // Descriptors (1, 1, D / 16) of a tile of rows, made anew each time: kept, they would be a register a step.
    const auto rows_of = [&](int tensor) {
      int tile = Config::row_tile(tensor, Config::kRowBuffers > 1 ? buffer : 0, group);
      forget(tile);
      return thread_scores.partition_fragment_A(sRows(_, _, tile));
    };
    Tensor tB1 = thread_scores.partition_fragment_B(sK);  // descriptors (1, 1, D / 16, stage)
    Tensor tB2 = thread_scores.partition_fragment_B(sV);
    Tensor tB1t = thread_output.partition_fragment_B(sKt);  // descriptors (1, 1, columns / 16, stage)
    Tensor tB2t = thread_output.partition_fragment_B(sVt);
    CUTE_STATIC_ASSERT_V(size<2>(tB1) == Int<Config::kHeadDim / 16>{});
    CUTE_STATIC_ASSERT_V(size<2>(tB1t) == Int<Config::kColumns / 16>{});

    auto scores = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kColumns>>{});  // ((2, 2, columns / 8), 1, 1)
    auto dp = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kColumns>>{});
    CUTE_STATIC_ASSERT_V(size(scores) == Int<Config::kColumns / 2>{});
    // The accumulator registers of 16 columns are, in order, the A operand of those columns.
    auto p = make_tensor<Element>(Shape<Shape<_2, _2, _2>, _1, Int<Config::kColumns / 16>>{});
    auto ds = make_tensor<Element>(Shape<Shape<_2, _2, _2>, _1, Int<Config::kColumns / 16>>{});

    auto start_scores = [&] {
      multiply(mma_scores, rows_of(0), tB1(_, _, _, first_.slot()), scores, !Config::kPreset);
      warpgroup_commit_batch();
    };
    auto start_dp = [&] {
      wait(shared.second_full[second_.slot()], second_.phase());
      multiply(mma_scores, rows_of(1), tB2(_, _, _, second_.slot()), dp, !Config::kPreset);
      warpgroup_commit_batch();
    };
    // S and dP of the tile are in flight; p and ds are what becomes of them.
    auto form = [&](const Note& note) {
      if constexpr (Config::kTuning.schedule.early) pass_turn();
      warpgroup_wait<1>();
      warpgroup_fence_operand(scores);
      if constexpr (!Config::kTuning.schedule.early) pass_turn();
      if (params.sign != 1.0f)
        for (int e = 0; e < size(scores); ++e) scores(e) *= params.sign;
      const bool masked = note.masked && note.state != Config::kFull;
      if constexpr (Config::kLateMask)
        if (masked) wait(shared.mask_full[mask_.slot()], mask_.phase());
      if (masked) mask(scores, -math::kInfinity<float>);
      each_score(own.shift, shared.shift,
                 [&](int at, float shift) { scores(at) = params.normalizer.weight_of(scores(at), shift); });
      warpgroup_wait<0>();
      warpgroup_fence_operand(dp);
      if constexpr (!Config::kKeyMajor) release(shared.second_empty[second_.slot()]);
      if constexpr (Config::kOverlaps)
        if (note.last) release(shared.late_rows_empty);
      // Where nothing is kept dP may be NaN, and so may a row's own delta.
      if (Config::kPreset && masked) mask(dp, 0.0f);
      if (!Config::kKeyMajor && params.dots) sum_dots(scores, dp, dots);
      each_score(own.delta, shared.delta,
                 [&](int at, float delta) { dp(at) = params.normalizer.dscore_of(scores(at), dp(at), delta); });
      if (!Config::kPreset && masked) mask(dp, 0.0f);
      if (note.masked) release_mask();
      if constexpr (Config::kKeyMajor) to_elements(scores, p);
      to_elements(dp, ds);
      if constexpr (Config::kAll) {
        publish(ds);
        // Moves that ptxas does not see through: it would place P and dS where dQ needs 32 registers in a row.
        uint32_t* pairs = reinterpret_cast<uint32_t*>(ds.data());
        uint32_t* weights = reinterpret_cast<uint32_t*>(p.data());
        for (int n = 0; n < Config::kColumns / 4; ++n)
          asm volatile("mov.b32 %0, %0; mov.b32 %1, %1;" : "+r"(pairs[n]), "+r"(weights[n]));
      }
    };
    auto finish = [&] {
      if constexpr (Config::kKeyMajor) multiply(mma_output, p, tB2t(_, _, _, second_.slot()), out2, false);
      multiply(mma_output, ds, tB1t(_, _, _, first_.slot()), out1, false);
      warpgroup_commit_batch();
    };
    auto drained = [&](auto& k, auto& v) {
      warpgroup_fence_operand(out1);
      if constexpr (Config::kKeyMajor) warpgroup_fence_operand(out2);
      release(shared.first_empty[k.slot()]);
      if constexpr (Config::kKeyMajor) release(shared.second_empty[v.slot()]);
    };

    clear(out1);
    if constexpr (Config::kKeyMajor) clear(out2);
    if constexpr (Config::kAll) {
      Note note;
      int query_tile = read_query_tile(note);
      take_turn();
      start_scores();
      if constexpr (Config::kOverlaps) {
        wait(shared.late_rows_full, late_rows_.phase());
        late_rows_.advance();
      }
      start_dp();
      under_product();
      form(note);
      // dQ waits a tile for dS of the other group.
      int before = -1;
      auto dq = partition_fragment_C(typename Config::MmaQueries{}, Shape<_64, Int<Config::kPartDim>>{});
      auto finish_all = [&] {
        start_queries(buffer, 2, before >= 0, dq);
        finish();
        warpgroup_wait<1>();
        warpgroup_fence_operand(dq);
        if (before >= 0) {
          release(shared.ds_empty[ds_slot(2)]);
          add_queries(before, dq);
        }
        warpgroup_wait<0>();
        drained(first_, second_);
        first_.advance();
        second_.advance();
        before = query_tile;
      };
      while (!note.last) {
        take_turn();
        finish_all();
        query_tile = read_query_tile(note);
        start_scores();
        start_dp();
        form(note);
      }
      finish_all();
      start_queries(buffer, 1, true, dq);
      warpgroup_wait<0>();
      warpgroup_fence_operand(dq);
      release(shared.ds_empty[ds_slot(1)]);
      add_queries(before, dq);
      // Rows and dS are not free for the epilogue before both groups have read them.
      wait(shared.ds_empty[ds_slot(1)], ds_phase(1));
      return;
    }
    bool waiting = true;
    for (Note note; next_live(note, true);) {
      take_turn();
      preset(scores, shared.shift);
      preset(dp, shared.delta);
      start_scores();
      if (waiting) under_product();
      waiting = false;
      start_dp();
      form(note);
      // Where the next tile has scores, too, it is asked for behind the products of this one.
      if constexpr (!kTurns) finish();
      for (Note next; !note.last && peek(next); note = next) {
        if constexpr (kTurns) {
          take_turn();
          finish();
        }
        if constexpr (!Config::kTuning.schedule.overlap) warpgroup_wait<0>();
        const auto k = first_;
        const auto v = second_;
        first_.advance();
        second_.advance();
        preset(scores, shared.shift);
        start_scores();
        if constexpr (Config::kTuning.schedule.overlap) warpgroup_wait<1>();
        drained(k, v);
        preset(dp, shared.delta);
        start_dp();
        form(next);
        if constexpr (!kTurns) finish();
      }
      if constexpr (kTurns) finish();
      // No stage is held when tiles pass: the producers may need it for one of those.
      warpgroup_wait<0>();
      drained(first_, second_);
      first_.advance();
      second_.advance();
      if (note.last) break;
    }
    if (waiting) under_product();
  }

 private:
  using Base::add_queries, Base::ds_phase, Base::ds_slot, Base::each_score, Base::publish, Base::read_query_tile,
      Base::start_queries;
  using Base::first_, Base::mask, Base::multiply, Base::next_live, Base::pass_turn, Base::read_note, Base::release_mask,
      Base::take_turn, Base::to_elements, Base::second_, Base::mask_;
  using typename Base::Note;

  /// The tile after the current one.
  __device__ __forceinline__ bool peek(Note& note) const {
    auto next = first_;
    next.advance();
    return read_note(note, next);
  }

  template <class Columns, class Scores>
  __device__ __forceinline__ void preset([[maybe_unused]] Scores& scores,
                                         [[maybe_unused]] const Columns& row_stats) const {
    if constexpr (Config::kPreset) {
      CUTE_UNROLL
      for (int n = 0; n < Config::kColumns / 8; ++n) {
        const float2 columns = *reinterpret_cast<const float2*>(&row_stats[first_.slot()][8 * n + 2 * (thread & 3)]);
        CUTE_UNROLL
        for (int r = 0; r < kFragmentRows; ++r)
          scores(4 * n + 2 * r) = columns.x, scores(4 * n + 2 * r + 1) = columns.y;
      }
    }
  }

  /// The sum of P dP is the row's output times its gradient, to more than the output's 16 bits.
  template <class Scores>
  __device__ __forceinline__ static void sum_dots(const Scores& p, const Scores& dp, float (&dots)[kFragmentRows]) {
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      CUTE_UNROLL
      for (int c = 0; c < Config::kColumns / 4; ++c) {
        const int at = accumulator_register(r, c);
        dots[r] += p(at) == 0.0f ? 0.0f : p(at) * dp(at);
      }
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
