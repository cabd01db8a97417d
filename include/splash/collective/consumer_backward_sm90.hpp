// Hopper backward consumers: S and dP, P and dS, and what they add to the gradients, tile after tile.
//
// One or two consumer warp groups own 64 rows each of a Work (config_backward_sm90.hpp has the equations).
// Overlap. While a group forms P and dS the products of the other one run; groups may take turns for that. Where
// registers allow it (`joined`), S of tile n + 1 queues behind the products of tile n, and dP behind S as soon as those
// have let go of p and ds. A group
// lets tiles pass of which its rows keep nothing; it holds no stage then. Registers of a consumer thread (D 128, 64
// columns): out1 64, out2 64, S 32, dP 32, P and dS 16 each as S and dP go.
#pragma once

#include <cutlass/numeric_conversion.h>

#include "splash/collective/config_backward_sm90.hpp"
#include "splash/collective/fragment_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct ConsumerBackwardSm90 {
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;
  using SharedStorage = typename Config::SharedStorage;
  using TileNote = typename Config::TileNote;

  /// Of this thread's rows, where rows are queries.
  struct RowNumbers {
    float shift[kFragmentRows], delta[kFragmentRows];
  };

  static constexpr bool kTurns = Config::kTuning.turns;

  struct Params {
    Normalizer normalizer;
    float sign;  ///< of the scale; raw scores are multiplied by it where it is not 1
    bool dots;   ///< rows are queries: sum P dP of each is wanted
  };

  const Params& params;
  SharedStorage& shared;
  int group, thread;

  Ring<Config::kKeyStages> k_{};
  Ring<Config::kValueStages> v_{};
  Ring<Config::kWordSlots> words_{};

  __device__ __forceinline__ ConsumerBackwardSm90(const Params& params, SharedStorage& shared, int group, int thread)
      : params(params), shared(shared), group(group), thread(thread) {}

  /// On return out1 and out2 hold the group's 64 rows of dS B1 and of P B2, and `dots` this thread's share of sum P dP.
  template <class Output>
  __device__ __forceinline__ void consume(int buffer, const RowNumbers& own, Output& out1, Output& out2,
                                          float (&dots)[kFragmentRows]) {
    Tensor sRows = make_tensor(make_smem_ptr(shared.q.begin()), typename Config::LayoutQ{});  // (64, D, tile)
    Tensor sK = make_tensor(make_smem_ptr(shared.k.begin()),
                            typename Config::template LayoutColumns<Config::kKeyStages>{});  // (columns, D, stage)
    Tensor sV =
        make_tensor(make_smem_ptr(shared.v.begin()), typename Config::template LayoutColumns<Config::kValueStages>{});
    Tensor sKt = make_tensor(make_smem_ptr(shared.k.begin()),
                             typename Config::template LayoutTransposed<Config::kKeyStages>{});  // (D, columns, stage)
    Tensor sVt = make_tensor(make_smem_ptr(shared.v.begin()),
                             typename Config::template LayoutTransposed<Config::kValueStages>{});
    typename Config::MmaScores mma_scores;
    typename Config::MmaOutput mma_output;
    auto thread_scores = mma_scores.get_thread_slice(thread);
    auto thread_output = mma_output.get_thread_slice(thread);
    // Descriptors (1, 1, D / 16) of a tile of rows, made anew each time: kept, they would be a register a step.
    const auto rows_of = [&](int tensor) {
      int tile = Config::row_tile(tensor, buffer, group);
      asm volatile("" : "+r"(tile));
      return thread_scores.partition_fragment_A(sRows(_, _, tile));
    };
    Tensor tB1 = thread_scores.partition_fragment_B(sK);  // descriptors (1, 1, D / 16, stage)
    Tensor tB2 = thread_scores.partition_fragment_B(sV);
    Tensor tB1t = thread_output.partition_fragment_B(sKt);  // descriptors (1, 1, columns / 16, stage)
    Tensor tB2t = thread_output.partition_fragment_B(sVt);
    CUTE_STATIC_ASSERT_V(size<2>(tB1) == Int<Config::kHeadDim / 16>{});
    CUTE_STATIC_ASSERT_V(size<2>(tB1t) == Int<Config::kKeys / 16>{});

    auto scores = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kKeys>>{});  // ((2, 2, columns / 8), 1, 1)
    auto dp = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kKeys>>{});
    CUTE_STATIC_ASSERT_V(size(scores) == Int<Config::kKeys / 2>{});
    // The accumulator registers of 16 columns are, in order, the A operand of those columns.
    auto p = make_tensor<Element>(Shape<Shape<_2, _2, _2>, _1, Int<Config::kKeys / 16>>{});
    auto ds = make_tensor<Element>(Shape<Shape<_2, _2, _2>, _1, Int<Config::kKeys / 16>>{});

    auto start_scores = [&] {
      multiply(mma_scores, rows_of(0), tB1(_, _, _, k_.slot()), scores, !Config::kPreset);
      warpgroup_commit_batch();
    };
    auto start_dp = [&] {
      wait(shared.v_full[v_.slot()], v_.phase());
      if constexpr (!Config::kFirst) return;
      multiply(mma_scores, rows_of(1), tB2(_, _, _, v_.slot()), dp, !Config::kPreset);
      warpgroup_commit_batch();
    };
    // S and dP of the tile are in flight; p and ds are what becomes of them.
    auto form = [&](const Note& note) {
      if constexpr (Config::kFirst)
        warpgroup_wait<1>();
      else
        warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
      pass_turn();
      if (params.sign != 1.0f)
        for (int e = 0; e < size(scores); ++e) scores(e) *= params.sign;
      const bool masked = note.words && note.state == Config::kPartial;
      if (masked) mask(scores, -math::kInfinity<float>);
      each_score(own.shift, shared.shift,
                 [&](int at, float shift) { scores(at) = params.normalizer.weight_of(scores(at), shift); });
      if constexpr (Config::kFirst) {
        warpgroup_wait<0>();
        warpgroup_fence_operand(dp);
        // Where nothing is kept dP may be NaN, and so may a row's own delta.
        if (Config::kPreset && masked) mask(dp, 0.0f);
        each_score(own.delta, shared.delta,
                   [&](int at, float delta) { dp(at) = params.normalizer.dscore_of(scores(at), dp(at), delta); });
        if (!Config::kKeyMajor && params.dots) sum_dots(own, scores, dp, dots);
        if (!Config::kPreset && masked) mask(dp, 0.0f);
      }
      if (note.words) {
        release(shared.words_empty[words_.slot()]);
        words_.advance();
      }
      if constexpr (Config::kSecond) to_elements(scores, p);
      if constexpr (Config::kFirst) to_elements(dp, ds);
    };
    auto finish = [&] {
      if constexpr (Config::kSecond) multiply(mma_output, p, tB2t(_, _, _, v_.slot()), out2, false);
      if constexpr (Config::kFirst) multiply(mma_output, ds, tB1t(_, _, _, k_.slot()), out1, false);
      warpgroup_commit_batch();
    };
    auto drained = [&](auto& k, auto& v) {
      if constexpr (Config::kFirst) warpgroup_fence_operand(out1);
      if constexpr (Config::kSecond) warpgroup_fence_operand(out2);
      release(shared.k_empty[k.slot()]);
      release(shared.v_empty[v.slot()]);
    };

    if constexpr (Config::kFirst) clear(out1);
    if constexpr (Config::kSecond) clear(out2);
    for (Note note; next_live(note);) {
      take_turn();
      preset(scores, shared.shift);
      preset(dp, shared.delta);
      start_scores();
      start_dp();
      form(note);
      // Where the next tile has scores, too, it is asked for behind the products of this one.
      if constexpr (!kTurns) finish();
      for (Note next; !note.last && peek(next); note = next) {
        if constexpr (kTurns) {
          take_turn();
          finish();
        }
        if constexpr (!Config::kTuning.joined) warpgroup_wait<0>();
        const auto k = k_;
        const auto v = v_;
        k_.advance();
        v_.advance();
        preset(scores, shared.shift);
        start_scores();
        if constexpr (Config::kTuning.joined) warpgroup_wait<1>();
        drained(k, v);
        preset(dp, shared.delta);
        start_dp();
        form(next);
        if constexpr (!kTurns) finish();
      }
      if constexpr (kTurns) finish();
      // No stage is held when tiles pass: the producers may need it for one of those.
      warpgroup_wait<0>();
      drained(k_, v_);
      k_.advance();
      v_.advance();
      if (note.last) break;
    }
  }

  /// To be called once before the first piece of work.
  __device__ __forceinline__ void start_turns() const {
    if (group == Config::kConsumers - 1) pass_turn();
  }

  /// Says for each warp that it is done with what the barrier guards.
  __device__ __forceinline__ void release(cutlass::arch::ClusterBarrier& empty) const {
    __syncwarp();
    if ((thread & 31) == 0) arrive(empty);
  }

 private:
  /// A TileNote as this group sees it.
  struct Note {
    int state = 0;
    bool words = false, last = false;
  };

  /// Waits for the tile in a K stage, the current one; whether it has scores for this group.
  __device__ __forceinline__ bool read_note(Note& note) const { return read_note(note, k_); }
  __device__ __forceinline__ bool peek(Note& note) const {
    auto next = k_;
    next.advance();
    return read_note(note, next);
  }
  __device__ __forceinline__ bool read_note(Note& note, const Ring<Config::kKeyStages>& k) const {
    wait(shared.k_full[k.slot()], k.phase());
    const TileNote& sent = shared.note[k.slot()];
    const int first = sent.state[2 * group], second = sent.state[2 * group + 1];
    note.state = first == second ? first : int(Config::kPartial);
    note.words = sent.words;
    note.last = sent.last;
    return note.state != Config::kEmpty;
  }

  /// Waits for the next tile that has scores for this group, and lets those pass that have none; false where the sweep
  /// ends with them.
  __device__ __forceinline__ bool next_live(Note& note) {
    while (!read_note(note)) {
      release(shared.k_empty[k_.slot()]);
      k_.advance();
      if (note.words) {
        release(shared.words_empty[words_.slot()]);
        words_.advance();
      }
      // Its load must have landed before the stage takes another one.
      wait(shared.v_full[v_.slot()], v_.phase());
      release(shared.v_empty[v_.slot()]);
      v_.advance();
      take_turn();
      pass_turn();
      if (note.last) return false;
    }
    return true;
  }

  /// Consumer groups work in a ring, tile by tile: the products of a tile and S and dP of the next one are asked for in
  /// one turn, which ends with S, so that one group forms weights while another multiplies.
  __device__ __forceinline__ void take_turn() const {
    if constexpr (kTurns) cutlass::arch::NamedBarrier::sync(256, kTurn + group);
  }
  __device__ __forceinline__ void pass_turn() const {
    if constexpr (kTurns)
      cutlass::arch::NamedBarrier::arrive(256, kTurn + (group + 1 == Config::kConsumers ? 0 : group + 1));
  }

  /// c += a b, or = a b; in flight until the batch that it is committed with has been waited for.
  template <class Mma, class A, class B, class C>
  __device__ __forceinline__ static void multiply(Mma& mma, const A& a, const B& b, C& c, bool zero) {
    warpgroup_fence_operand(c);
    warpgroup_arrive();
    mma.accumulate_ = zero ? GMMA::ScaleOut::Zero : GMMA::ScaleOut::One;
    CUTE_UNROLL
    for (int n = 0; n < size<2>(a); ++n) {
      cute::gemm(mma, a(_, _, n), b(_, _, n), c);
      mma.accumulate_ = GMMA::ScaleOut::One;
    }
  }

  template <class Columns, class Scores>
  __device__ __forceinline__ void preset([[maybe_unused]] Scores& scores, const Columns& numbers) const {
    if constexpr (!Config::kPreset) return;
    CUTE_UNROLL
    for (int n = 0; n < Config::kKeys / 8; ++n) {
      const float2 columns = *reinterpret_cast<const float2*>(&numbers[k_.slot()][8 * n + 2 * (thread & 3)]);
      CUTE_UNROLL
      for (int r = 0; r < kFragmentRows; ++r) scores(4 * n + 2 * r) = columns.x, scores(4 * n + 2 * r + 1) = columns.y;
    }
  }

  /// f(register, number of its query) for all scores of this thread. `numbers`: of the columns, by stage, where these
  /// are queries; own: of the rows otherwise. Few columns at a time, since all of their numbers are too many registers.
  template <class Columns, class F>
  __device__ __forceinline__ void each_score(const float (&own)[kFragmentRows], const Columns& numbers,
                                             const F& f) const {
    CUTE_UNROLL
    for (int n = 0; n < Config::kKeys / 8; ++n) {
      float2 columns{};
      if constexpr (Config::kKeyMajor && !Config::kPreset) {
        if (n % 4 == 0) asm volatile("" ::: "memory");
        columns = *reinterpret_cast<const float2*>(&numbers[k_.slot()][8 * n + 2 * (thread & 3)]);
      }
      CUTE_UNROLL
      for (int e = 0; e < 2; ++e) {
        CUTE_UNROLL
        for (int r = 0; r < kFragmentRows; ++r)
          f(4 * n + 2 * r + e, !Config::kKeyMajor ? own[r] : (e == 0 ? columns.x : columns.y));
      }
    }
  }

  /// P dP = dS + P delta; the sum of it is the row's output times its gradient, to more than the output's 16 bits.
  template <class Scores>
  __device__ __forceinline__ static void sum_dots(const RowNumbers& own, const Scores& p, const Scores& ds,
                                                  float (&dots)[kFragmentRows]) {
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      CUTE_UNROLL
      for (int c = 0; c < Config::kKeys / 4; ++c) {
        const int at = accumulator_register(r, c);
        const float term = math::fma(p(at), own.delta[r], ds(at));
        dots[r] += p(at) == 0.0f ? 0.0f : term;
      }
    }
  }

  template <class Scores>
  __device__ __forceinline__ void mask(Scores& scores, float value) const {
    constexpr int kColumns = decltype(size(scores))::value / kFragmentRows;
    const int shift = 2 * (thread & 3);
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      CUTE_UNROLL
      for (int w = 0; w < Config::kWords; ++w) {
        const uint64_t& word = shared.words[words_.slot()][w][64 * group + accumulator_row(thread, r)];
        CUTE_UNROLL
        for (int half = 0; half < 2 && w * 16 + half * 8 < kColumns; ++half) {
          // Bit 8 n + e is now that of this lane's column 8 n + 2 (lane % 4) + e.
          const uint32_t bits = reinterpret_cast<const uint32_t*>(&word)[half] >> shift;
          CUTE_UNROLL
          for (int c = 0; c < 8 && w * 16 + half * 8 + c < kColumns; ++c)
            if (!(bits >> ((c >> 1) * 8 + (c & 1)) & 1)) scores(accumulator_register(r, w * 16 + half * 8 + c)) = value;
        }
      }
    }
  }

  template <class Floats, class Elements>
  __device__ __forceinline__ static void to_elements(const Floats& floats, Elements& elements) {
    constexpr int kCount = decltype(size(floats))::value;
    cutlass::NumericArrayConverter<Element, float, kCount> convert;
    *reinterpret_cast<cutlass::Array<Element, kCount>*>(elements.data()) =
        convert(*reinterpret_cast<const cutlass::Array<float, kCount>*>(floats.data()));
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
