// Hopper forward mainloop: S = Q K^T, W = normalizer(S), O = W V, tile after tile over the keys that the pattern keeps.
//
// Roles. One producer warp walks the pattern (patterns::TileWalk) and issues TMA loads of Q, K and V; one to three
// consumer warp groups own 64 query rows each. A sweep is one walk over the tiles: score sweeps bring K alone, the
// output sweep K and V.
// Barriers. k_full / k_empty and v_full / v_empty are rings of kStages; with each K tile travels a TileNote that tells
// which tile it is and who must mask, so consumers never walk; a negative note ends a sweep. After a score sweep the
// consumers vote whether another one is needed, and the producer hears it through `swept`.
// Overlap. Q K^T of tile n + 1 and W V of tile n are in flight together; the normalizer works on tile n + 1 while W V
// drains. Consumer groups take turns to issue, so that one computes weights while another multiplies.
// Poison. Values of columns that no query of the problem keeps may be NaN; 0 * NaN would reach the output. The
// producer zeroes such columns of a V tile in shared memory before it hands the tile over.
// Registers of a consumer thread (D 128, 128 keys): S 64, O 64, W 32, state and addresses about 40.
// Shared memory (D 128, 128 keys, 2 stages): Q 32 KiB, K 64 KiB, V 64 KiB.
#pragma once

#include <cutlass/numeric_conversion.h>

#include "splash/collective/config_forward_sm90.hpp"
#include "splash/collective/fragment_sm90.hpp"
#include "splash/patterns/bits.hpp"
#include "splash/patterns/tile_walk.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config, class TmaQ, class TmaK, class TmaV>
struct MainloopForwardSm90 {
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;
  using Pattern = typename Config::Pattern;
  using SharedStorage = typename Config::SharedStorage;
  using Rows = typename Normalizer::template Rows<float, kFragmentRows>;
  using K = Ring<Config::kStages>;

  static constexpr int kVoters = 128 * Config::kConsumers;

  struct Params {
    TmaQ tma_q;
    TmaK tma_k;
    TmaV tma_v;
    Pattern pattern;
    Normalizer normalizer;
    float sign;  ///< of the scale; raw scores are multiplied by it where it is not 1
    int num_keys;
    int head_dim;
    int group;  ///< query heads a key/value head
    int fold_k_head, fold_k_batch, fold_v_head, fold_v_batch, fold_q_head, fold_q_batch;  ///< 0: expanded dimension
  };

  /// The tile of queries that a block of threads works on.
  struct Work {
    Frame frame;
    int row_begin;
  };

  const Params& params;
  SharedStorage& shared;
  const Work& work;

  // ---------------------------------------------------------------- producer

  /// By all 32 threads of one warp.
  __device__ void produce(int lane) {
    if (lane == 0) load_queries();
    K k, v;
    bool with_values = !Normalizer::kScoreSweeps;
    for (int sweeps = 0;; ++sweeps) {
      sweep(with_values, lane, k, v);
      if (with_values) return;
      with_values = !hear(sweeps, lane);
    }
  }

  /// After a score sweep: whether the consumers want another one. Slots of three sweeps rotate, so that one is cleared
  /// while nobody reads or writes it.
  __device__ bool hear(int sweep, int lane) {
    shared.swept.wait(sweep & 1);
    const bool again = __shfl_sync(~0u, lane == 0 ? shared.votes[sweep % 3] : 0, 0);
    if (lane == 0) shared.votes[(sweep + 2) % 3] = 0;
    return again;
  }

  __device__ void load_queries() {
    Tensor gQ = local_tile(params.tma_q.get_tma_tensor(make_shape(1 << 30, params.head_dim, 1 << 16, 1 << 16))(
                               _, _, work.frame.head * params.fold_q_head, work.frame.batch * params.fold_q_batch),
                           Shape<_64, Int<Config::kHeadDim>>{}, make_coord(_, _0{}));      // (64, D, row tiles)
    Tensor sQ = make_tensor(make_smem_ptr(shared.q.begin()), typename Config::LayoutQ{});  // (64, D, warp group)
    auto [tQg, tQs] = tma_partition(params.tma_q, _0{}, Layout<_1>{}, group_modes<0, 2>(sQ), group_modes<0, 2>(gQ));
    shared.q_full.arrive_and_expect_tx(Config::kBytesQ);
    CUTE_UNROLL
    for (int w = 0; w < Config::kConsumers; ++w)
      copy(params.tma_q.with(*reinterpret_cast<uint64_t*>(&shared.q_full)), tQg(_, work.row_begin / 64 + w), tQs(_, w));
  }

  /// One copy of the walk serves both kinds of sweeps: the patterns' code is long.
  __device__ __forceinline__ void sweep(bool with_values, int lane, K& k, K& v) {
    const int head = work.frame.head / params.group;
    Tensor gK =
        local_tile(params.tma_k.get_tma_tensor(make_shape(1 << 30, params.head_dim, 1 << 16, 1 << 16))(
                       _, _, head * params.fold_k_head, work.frame.batch * params.fold_k_batch),
                   Shape<Int<Config::kKeys>, Int<Config::kHeadDim>>{}, make_coord(_, _0{}));  // (keys, D, tiles)
    Tensor gV =
        local_tile(params.tma_v.get_tma_tensor(make_shape(params.head_dim, 1 << 30, 1 << 16, 1 << 16))(
                       _, _, head * params.fold_v_head, work.frame.batch * params.fold_v_batch),
                   Shape<Int<Config::kHeadDim>, Int<Config::kKeys>>{}, make_coord(_0{}, _));  // (D, keys, tiles)
    Tensor sK = make_tensor(make_smem_ptr(shared.k.begin()), typename Config::LayoutK{});     // (keys, D, stage)
    Tensor sV = make_tensor(make_smem_ptr(shared.v.begin()), typename Config::LayoutV{});     // (D, keys, stage)
    auto [tKg, tKs] = tma_partition(params.tma_k, _0{}, Layout<_1>{}, group_modes<0, 2>(sK), group_modes<0, 2>(gK));
    auto [tVg, tVs] = tma_partition(params.tma_v, _0{}, Layout<_1>{}, group_modes<0, 2>(sV), group_modes<0, 2>(gV));

    const Frame& frame = work.frame;
    const int row_end = min(work.row_begin + Config::kRows, frame.num_queries);
    for (patterns::TileWalk<Pattern> walk(params.pattern, frame, work.row_begin, row_end, frame.num_keys,
                                          Config::kKeys);
         !walk.done(); walk.advance()) {
      const unsigned full = full_groups(walk);
      shared.k_empty[k.slot].wait(k.phase ^ 1);
      if (lane == 0) {
        shared.note[k.slot] = Config::TileNote::of(walk.tile(), full);
        shared.k_full[k.slot].arrive_and_expect_tx(Config::kBytesK);
        copy(params.tma_k.with(*reinterpret_cast<uint64_t*>(&shared.k_full[k.slot])), tKg(_, walk.tile()),
             tKs(_, k.slot));
      }
      k.advance();
      if (with_values) {
        const unsigned dead = full == (1u << Config::kConsumers) - 1 ? 0u : dead_columns(lane, walk.begin());
        const bool scrub = __any_sync(~0u, dead != 0);
        auto& landed = scrub ? shared.scrub : shared.v_full[v.slot];
        shared.v_empty[v.slot].wait(v.phase ^ 1);
        if (lane == 0) {
          landed.arrive_and_expect_tx(Config::kBytesV);
          copy(params.tma_v.with(*reinterpret_cast<uint64_t*>(&landed)), tVg(_, walk.tile()), tVs(_, v.slot));
        }
        if (scrub) {
          shared.scrub.wait(scrub_phase_);
          scrub_phase_ ^= 1;
          for (int n = 0; n < Config::kKeys / 32; ++n)
            if (dead >> n & 1)
              for (int d = 0; d < Config::kHeadDim; ++d) sV(d, lane + 32 * n, v.slot) = Element(0);
          cutlass::arch::fence_view_async_shared();
          __syncwarp();
          if (lane == 0) shared.v_full[v.slot].arrive();
        }
        v.advance();
      }
    }
    shared.k_empty[k.slot].wait(k.phase ^ 1);
    if (lane == 0) {
      shared.note[k.slot] = Config::TileNote::end();
      shared.k_full[k.slot].arrive();
    }
    k.advance();
  }

  /// Bit w is set where warp group w keeps every score of the tile, or has no real row.
  __device__ unsigned full_groups(const patterns::TileWalk<Pattern>& walk) const {
    if (walk.begin() + Config::kKeys > work.frame.num_keys) return 0;
    constexpr unsigned kAll = (1u << Config::kConsumers) - 1;
    if (Config::kConsumers == 1 || walk.state() == TileState::full) return walk.state() == TileState::full ? kAll : 0;
    unsigned full = 0;
    for (int w = 0; w < Config::kConsumers; ++w) {
      Box box = walk.box();
      box.row_begin = work.row_begin + 64 * w;
      box.row_end = min(box.row_begin + 64, work.frame.num_queries);
      if (box.row_begin >= box.row_end || params.pattern.classify(work.frame, box) == TileState::full) full |= 1u << w;
    }
    return full;
  }

  /// A column inside the tensor that no query of this problem keeps. TMA zeroes what lies outside the tensor.
  __device__ bool dead(int column) const {
    const Frame& frame = work.frame;
    if (column >= params.num_keys) return false;
    if (column >= frame.num_keys) return true;
    for (int row = 0;; ++row) {
      row = params.pattern.next_row(frame, column, column + 1, row);
      if (row >= frame.num_queries) return true;
      if (params.pattern.keep(frame, row, column)) return false;
    }
  }

  /// Bit n: column begin + lane + 32 n is dead.
  __device__ unsigned dead_columns(int lane, int begin) const {
    unsigned found = 0;
#pragma unroll 1
    for (int n = 0; n < Config::kKeys / 32; ++n) found |= unsigned(dead(begin + lane + 32 * n)) << n;
    return found;
  }

  unsigned scrub_phase_ = 0;

  // ---------------------------------------------------------------- consumers

  /// By one consumer warp group. On return `output` holds its 64 rows of O, normalized, and `rows` their statistics.
  template <class Output>
  __device__ void consume(int group, int thread, Output& output, Rows& rows) {
    const Normalizer& normalizer = params.normalizer;
    const QuadReduce reduce;

    Tensor sQ = make_tensor(make_smem_ptr(shared.q.begin()), typename Config::LayoutQ{});  // (64, D, warp group)
    Tensor sK = make_tensor(make_smem_ptr(shared.k.begin()), typename Config::LayoutK{});  // (keys, D, stage)
    Tensor sV = make_tensor(make_smem_ptr(shared.v.begin()), typename Config::LayoutV{});  // (D, keys, stage)
    typename Config::MmaScores mma_scores;
    typename Config::MmaOutput mma_output;
    auto thread_scores = mma_scores.get_thread_slice(thread);
    auto thread_output = mma_output.get_thread_slice(thread);
    Tensor tSrQ = thread_scores.partition_fragment_A(sQ(_, _, group));  // descriptors (1, 1, D / 16)
    Tensor tSrK = thread_scores.partition_fragment_B(sK);               // descriptors (1, 1, D / 16, stage)
    Tensor tOrV = thread_output.partition_fragment_B(sV);               // descriptors (1, 1, keys / 16, stage)
    CUTE_STATIC_ASSERT_V(size<2>(tSrQ) == Int<Config::kHeadDim / 16>{});
    CUTE_STATIC_ASSERT_V(size<2>(tSrK) == Int<Config::kHeadDim / 16>{});
    CUTE_STATIC_ASSERT_V(size<2>(tOrV) == Int<Config::kKeys / 16>{});

    auto scores = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kKeys>>{});  // ((2, 2, keys / 8), 1, 1)
    CUTE_STATIC_ASSERT_V(size(scores) == Int<Config::kKeys / 2>{});
    // The accumulator registers of 16 keys are, in order, the A operand of those keys.
    auto weights = make_tensor<Element>(Shape<Shape<_2, _2, _2>, _1, Int<Config::kKeys / 16>>{});

    auto multiply_scores = [&](const K& k) { issue(mma_scores, tSrQ, tSrK(_, _, _, k.slot), scores, true); };
    // One lane reads for its warp, and that lane frees the stage later.
    auto read_note = [&](const K& k) {
      shared.k_full[k.slot].wait(k.phase);
      return typename Config::TileNote{__shfl_sync(~0u, (thread & 31) == 0 ? shared.note[k.slot].word : 0, 0)};
    };
    auto release = [&](cutlass::arch::ClusterBarrier& empty) {
      if ((thread & 31) == 0) empty.arrive();
    };
    auto prepare = [&](const typename Config::TileNote& note) {
      if (params.sign != 1.0f)
        for (int e = 0; e < size(scores); ++e) scores(e) *= params.sign;
      if (!note.is_full(group)) mask(scores, note.tile() * Config::kKeys, group, thread);
    };
    AccumulatorFragment<decltype(scores)> fragment{scores};

    K k, v;
    shared.q_full.wait(0);

    if constexpr (Normalizer::kScoreSweeps) {
      int sweeps = 0;
      do {
        for (;;) {
          const auto note = read_note(k);
          if (note.ends()) break;
          multiply_scores(k);
          warpgroup_wait<0>();
          warpgroup_fence_operand(scores);
          release(shared.k_empty[k.slot]);
          k.advance();
          prepare(note);
          rows.observe(normalizer, fragment);
        }
        release(shared.k_empty[k.slot]);
        k.advance();
      } while (vote(sweeps++, rows.refine(normalizer, reduce), thread));
    }

    clear(output);
    if (group == Config::kConsumers - 1) pass_turn(group);
    auto note = read_note(k);
    if (!note.ends()) {
      float rescale[kFragmentRows];
      take_turn(group);
      multiply_scores(k);
      warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
      pass_turn(group);
      release(shared.k_empty[k.slot]);
      k.advance();
      prepare(note);
      rows.weigh(normalizer, fragment, rescale, reduce);
      to_weights(scores, weights);

      for (;;) {
        note = read_note(k);
        if (note.ends()) break;
        take_turn(group);
        multiply_scores(k);
        shared.v_full[v.slot].wait(v.phase);
        issue(mma_output, weights, tOrV(_, _, _, v.slot), output, false);
        pass_turn(group);
        warpgroup_wait<1>();
        warpgroup_fence_operand(scores);
        release(shared.k_empty[k.slot]);
        k.advance();
        prepare(note);
        rows.weigh(normalizer, fragment, rescale, reduce);
        warpgroup_wait<0>();
        warpgroup_fence_operand(output);
        release(shared.v_empty[v.slot]);
        v.advance();
        if constexpr (Normalizer::kRescales) scale_rows(output, rescale);
        to_weights(scores, weights);
      }
      shared.v_full[v.slot].wait(v.phase);
      issue(mma_output, weights, tOrV(_, _, _, v.slot), output, false);
      rows.finish(normalizer, reduce);
      warpgroup_wait<0>();
      warpgroup_fence_operand(output);
    }
    float factor[kFragmentRows];
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) factor[r] = rows.output_factor(r);
    scale_rows(output, factor);
  }

  /// Ends a score sweep: true where a row of any consumer needs another one; the producer hears of it.
  __device__ bool vote(int sweep, bool again, int thread) {
    if (__any_sync(~0u, again) && (thread & 31) == 0) atomicOr(&shared.votes[sweep % 3], 1);
    cutlass::arch::NamedBarrier::sync(kVoters, kVote);
    if (threadIdx.x == 128) shared.swept.arrive();
    return __shfl_sync(~0u, (thread & 31) == 0 ? shared.votes[sweep % 3] : 0, 0) != 0;
  }

  template <class Mma, class A, class B, class C>
  __device__ static void issue(Mma& mma, const A& a, const B& b, C& c, bool zero) {
    warpgroup_fence_operand(c);
    warpgroup_arrive();
    mma.accumulate_ = zero ? GMMA::ScaleOut::Zero : GMMA::ScaleOut::One;
    CUTE_UNROLL
    for (int n = 0; n < size<2>(a); ++n) {
      cute::gemm(mma, a(_, _, n), b(_, _, n), c);
      mma.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  }

  /// A cheap keep() is inlined once an accumulator register. Of other patterns 64 answers come at once, and the lanes
  /// of a quad, which share their rows, ask for one word each.
  template <class Scores>
  __device__ void mask(Scores& scores, int begin, int group, int thread) const {
    constexpr int kColumns = decltype(size(scores))::value / kFragmentRows;
    const Frame& frame = work.frame;
    const int lane = thread & 31;
    const auto row = [&](int r) {
      return min(work.row_begin + 64 * group + accumulator_row(thread, r), frame.num_queries - 1);
    };
    if constexpr (Config::kUnrollMask) {
      CUTE_UNROLL
      for (int r = 0; r < kFragmentRows; ++r) {
        CUTE_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          const int column = begin + accumulator_column(lane, c);
          if (column >= frame.num_keys || !params.pattern.keep(frame, row(r), column))
            scores(accumulator_register(r, c)) = -math::kInfinity<float>;
        }
      }
    } else {
      constexpr int kWords = Config::kKeys / 64 * kFragmentRows;
      static_assert(Config::kKeys % 64 == 0 && kWords <= 4, "a quad has a lane for each word");
      const int quad = lane & 3, word = quad % kWords, column = begin + word / kFragmentRows * 64;
      uint64_t kept = 0;
      if (column < frame.num_keys)
        kept = patterns::kept_bits(params.pattern, frame, row(word % kFragmentRows), column) &
               patterns::bits_between(0, frame.num_keys - 1 - column);
      CUTE_UNROLL
      for (int w = 0; w < kWords; ++w) {
        // Bit 8 n + e is now that of this lane's column 8 n + 2 quad + e.
        const uint64_t bits = __shfl_sync(~0u, kept, w, 4) >> (2 * quad);
        CUTE_UNROLL
        for (int c = 0; c < 16; ++c)
          if (!(bits >> ((c >> 1) * 8 + (c & 1)) & 1))
            scores(accumulator_register(w % kFragmentRows, w / kFragmentRows * 16 + c)) = -math::kInfinity<float>;
      }
    }
  }

  template <class Scores, class Weights>
  __device__ static void to_weights(const Scores& scores, Weights& weights) {
    constexpr int kCount = decltype(size(scores))::value;
    cutlass::NumericArrayConverter<Element, float, kCount> convert;
    *reinterpret_cast<cutlass::Array<Element, kCount>*>(weights.data()) =
        convert(*reinterpret_cast<const cutlass::Array<float, kCount>*>(scores.data()));
  }

  template <class Output>
  __device__ static void scale_rows(Output& output, const float (&factor)[kFragmentRows]) {
    CUTE_UNROLL
    for (int c = 0; c < size(output) / kFragmentRows; ++c) {
      CUTE_UNROLL
      for (int r = 0; r < kFragmentRows; ++r) output(accumulator_register(r, c)) *= factor[r];
    }
  }

  /// Consumer groups issue their products in a ring: wait for the own turn, then let the next group go.
  __device__ static void take_turn(int group) {
    if constexpr (Config::kConsumers > 1) cutlass::arch::NamedBarrier::sync(256, kTurn + group);
  }
  __device__ static void pass_turn(int group) {
    if constexpr (Config::kConsumers > 1)
      cutlass::arch::NamedBarrier::arrive(256, kTurn + (group + 1 == Config::kConsumers ? 0 : group + 1));
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
