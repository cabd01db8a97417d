// Hopper backward consumers: S and dP, P and dS, and what they add to the gradients, tile after tile.
//
// One or two consumer warp groups own 64 rows each of a Work (config_backward_sm90.hpp has the equations).
// Overlap. While a group forms P and dS the products of the other one run; groups may take turns for that. Where
// registers allow it (`joined`), S of tile n + 1 queues behind the products of tile n, and dP behind S as soon as those
// have let go of p and ds. A group
// lets tiles pass of which its rows keep nothing; it holds no stage then. Registers of a consumer thread (D 128, 64
// columns): out1 64, out2 64, S 32, dP 32, P and dS 16 each as S and dP go.
// The fused pass (kAll). Both groups write their dS to shared memory, two tiles of it, and each multiplies half of dQ
// of the tile before, 32 registers once S and dP are gone: dS of the other group is there by then, so neither waits for
// it. No group lets a tile pass.
#pragma once

#include "splash/collective/config_backward_sm90.hpp"
#include "splash/collective/consumer_sm90.hpp"
#include "splash/collective/store_rows_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct ConsumerBackwardSm90 : ConsumerSm90<Config> {
  using Base = ConsumerSm90<Config>;
  using Base::group, Base::release, Base::shared, Base::thread;
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;

  /// Of this thread's rows, where rows are queries.
  struct RowNumbers {
    float shift[kFragmentRows], delta[kFragmentRows];
  };

  static constexpr bool kTurns = Config::kTuning.turns;

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
  Ring<Config::kScoreBuffers> ds_written_{};  ///< where kAll

  __device__ __forceinline__ ConsumerBackwardSm90(const Params& params, typename Config::SharedStorage& shared,
                                                  int group, int thread)
      : Base(shared, group, thread), params(params) {}

  /// On return out1 and out2 hold the group's 64 rows of dS B1 and of P B2, and `dots` this thread's share of sum P dP.
  /// under_product() is called once, while the first product runs or where there is none.
  template <class Output, class UnderProduct>
  __device__ __forceinline__ void consume(int buffer, const RowNumbers& own, Output& out1, Output& out2,
                                          float (&dots)[kFragmentRows], const UnderProduct& under_product) {
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
      int tile = Config::row_tile(tensor, Config::kQueryBuffers > 1 ? buffer : 0, group);
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
      if constexpr (Config::kTuning.early) pass_turn();
      if constexpr (Config::kFirst)
        warpgroup_wait<1>();
      else
        warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
      if constexpr (!Config::kTuning.early) pass_turn();
      if (params.sign != 1.0f)
        for (int e = 0; e < size(scores); ++e) scores(e) *= params.sign;
      const bool masked = note.words && note.state != Config::kFull;
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
      if (note.words) release_words();
      if constexpr (Config::kSecond) to_elements(scores, p);
      if constexpr (Config::kFirst) to_elements(dp, ds);
      if constexpr (Config::kAll) {
        publish(ds);
        // Moves that ptxas does not see through: it would place P and dS where dQ needs 32 registers in a row.
        uint32_t* pairs = reinterpret_cast<uint32_t*>(ds.data());
        uint32_t* weights = reinterpret_cast<uint32_t*>(p.data());
        for (int n = 0; n < Config::kKeys / 4; ++n)
          asm volatile("mov.b32 %0, %0; mov.b32 %1, %1;" : "+r"(pairs[n]), "+r"(weights[n]));
      }
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
    if constexpr (Config::kAll) {
      Note note;
      int query_tile = read_query_tile(note);
      take_turn();
      start_scores();
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
        add_queries(before, 2, dq);
        warpgroup_wait<0>();
        drained(k_, v_);
        k_.advance();
        v_.advance();
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
      add_queries(before, 1, dq);
      // Rows are not free for the epilogue before both groups have read them.
      cutlass::arch::NamedBarrier::sync(128 * Config::kConsumers, kConsumersOnly);
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
    if (waiting) under_product();
  }

  /// Of K, those that nobody keeps: 0 dS times NaN must not reach dQ. S of such rows is masked, so it may be under way;
  /// dQ waits for what every warp publishes afterwards.
  __device__ __forceinline__ void zero_dead_rows(int work, int buffer) const {
    const unsigned dead = shared.dead_rows[work][2 * group + (thread >> 5 & 1)];
    if (dead == 0) return;
    Tensor rows = make_tensor(make_smem_ptr(shared.q.begin()), typename Config::LayoutQ{});  // (64, D, tile)
    if (dead >> (thread & 31) & 1)
#pragma unroll 1
      for (int d = thread >> 6 << 3; d < Config::kHeadDim; d += 16)
        *reinterpret_cast<uint4*>(&rows(thread & 63, d, Config::row_tile(0, buffer, group))) = make_uint4(0, 0, 0, 0);
    cutlass::arch::fence_view_async_shared();
  }

 private:
  using Base::k_, Base::mask, Base::multiply, Base::next_live, Base::pass_turn, Base::read_note, Base::release_words,
      Base::take_turn, Base::to_elements, Base::v_, Base::words_;
  using typename Base::Note;

  /// Waits for the tile in the current K stage, of which none passes; the tile of dQ that it adds to.
  __device__ __forceinline__ int read_query_tile(Note& note) const {
    read_note(note);
    return shared.query_tile[k_.slot()];
  }

  /// The tile after the current one.
  __device__ __forceinline__ bool peek(Note& note) const {
    auto next = k_;
    next.advance();
    return read_note(note, next);
  }

  /// Of the dS that was written `ahead` of the next one, 1 or 2.
  __device__ __forceinline__ int ds_slot(int ahead) const { return ds_written_.slot() ^ (ahead & 1); }
  __device__ __forceinline__ unsigned ds_phase(int ahead) const {
    return ds_written_.phase() ^ (ahead > ds_written_.slot());
  }

  /// dS of the group's 64 keys, for both groups.
  template <class Scores>
  __device__ __forceinline__ void publish(const Scores& ds) {
    const int slot = ds_written_.slot();
    wait(shared.ds_empty[slot], ds_written_.phase() ^ 1);
    // (64 queries, keys, part of the tile); rows of four 8 x 8 matrices as in stage_rows().
    Tensor tile = make_tensor(make_smem_ptr(shared.ds.begin()), typename Config::LayoutS{});
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(ds.data());
    int lane = thread;
    asm volatile("" : "+r"(lane));
    const int key = 64 * group + (lane >> 5) * 16 + (lane & 15), query = (lane >> 4 & 1) * 8;
    CUTE_UNROLL
    for (int n = 0; n < Config::kKeys / 8; n += 2)
      SM90_U32x4_STSM_N::copy(
          pairs[2 * n], pairs[2 * n + 1], pairs[2 * n + 2], pairs[2 * n + 3],
          *reinterpret_cast<uint128_t*>(&tile(query + 8 * n % 64, key, slot * Config::kQueryParts + n / 8)));
    cutlass::arch::fence_view_async_shared();
    release(shared.ds_full[slot]);
    ds_written_.advance();
  }

  /// This group's part of dQ of the oldest tile that has not had it; of nothing where there is none.
  template <class Output>
  __device__ __forceinline__ void start_queries(int buffer, int ahead, bool any, Output& dq) {
    Tensor tile = make_tensor(make_smem_ptr(shared.ds.begin()), typename Config::LayoutS{});
    Tensor keys = make_tensor(make_smem_ptr(shared.q.begin()), typename Config::LayoutPart{});
    typename Config::MmaQueries mma;
    auto slice = mma.get_thread_slice(thread);
    int part = ds_slot(ahead) * Config::kQueryParts + (Config::kQueryParts > 1 ? group : 0);
    int first = Config::row_tile(0, Config::kQueryBuffers > 1 ? buffer : 0, 0) * Config::kDimParts +
                (Config::kDimParts > 1 ? group : 0);
    asm volatile("" : "+r"(part), "+r"(first));
    if (any) wait(shared.ds_full[ds_slot(ahead)], ds_phase(ahead));
    Tensor a = slice.partition_fragment_A(tile(_, _, part));
    warpgroup_fence_operand(dq);
    warpgroup_arrive();
    mma.accumulate_ = GMMA::ScaleOut::Zero;
    CUTE_UNROLL
    for (int rows = 0; rows < Config::kConsumers; ++rows) {
      Tensor b = slice.partition_fragment_B(keys(_, _, first + rows * Config::kDimParts));
      CUTE_UNROLL
      for (int n = 0; n < 4; ++n) {
        cute::gemm(mma, a(_, _, 4 * rows + n), b(_, _, n), dq);
        mma.accumulate_ = GMMA::ScaleOut::One;
      }
    }
    warpgroup_commit_batch();
  }

  /// Once that product has ended. Every instruction of a warp adds to 512 bytes in a row.
  template <class Output>
  __device__ __forceinline__ void add_queries(int query_tile, int ahead, const Output& dq) {
    if (query_tile < 0) return;
    release(shared.ds_empty[ds_slot(ahead)]);
    if constexpr (Config::kCloses) {
      store_queries(query_tile, dq);
      return;
    }
    constexpr int kQuads = decltype(size(dq))::value / 4;
    float4* to = params.queries + ((int64_t(query_tile) * Config::kConsumers + group) * kQuads) * 128 + thread;
    CUTE_UNROLL
    for (int n = 0; n < kQuads; ++n)
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + n * 128), "f"(dq(4 * n)),
                   "f"(dq(4 * n + 1)), "f"(dq(4 * n + 2)), "f"(dq(4 * n + 3))
                   : "memory");
  }

  /// This group's part of a whole tile of dQ.
  template <class Output>
  __device__ __forceinline__ void store_queries(int query_tile, const Output& dq) const {
    const Queries& to = params.closed;
    const int line = to.tiles.quotient(query_tile), batch = to.heads.quotient(line);
    const int first =
        (query_tile - line * to.tiles.divisor) * Config::kKeys + (Config::kQueryParts > 1 ? 64 * group : 0);
    const int begin = Config::kDimParts > 1 ? Config::kPartDim * group : 0;
    Element* const head = to.data + batch * to.batch_stride + (line - batch * to.heads.divisor) * to.head_stride;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const int row = first + accumulator_row(thread, r);
      if (row >= to.num_queries) continue;
      Element* const at = head + row * to.row_stride + begin;
      const float factor[kFragmentRows] = {to.scale, to.scale};
      CUTE_UNROLL
      for (int c = 0; c < size(dq) / kFragmentRows; c += 2) {
        const int column = accumulator_column(thread & 31, c);
        if (begin + column < to.head_dim)
          *reinterpret_cast<uint32_t*>(at + column) = pair_of<Element>(dq, r, c, factor);
      }
    }
  }

  template <class Columns, class Scores>
  __device__ __forceinline__ void preset([[maybe_unused]] Scores& scores,
                                         [[maybe_unused]] const Columns& numbers) const {
    if constexpr (Config::kPreset) {
      CUTE_UNROLL
      for (int n = 0; n < Config::kKeys / 8; ++n) {
        const float2 columns = *reinterpret_cast<const float2*>(&numbers[k_.slot()][8 * n + 2 * (thread & 3)]);
        CUTE_UNROLL
        for (int r = 0; r < kFragmentRows; ++r)
          scores(4 * n + 2 * r) = columns.x, scores(4 * n + 2 * r + 1) = columns.y;
      }
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
        if (n % (Config::kAll ? 2 : 4) == 0) asm volatile("" ::: "memory");
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
};

}  // namespace collective
SPLASH_NAMESPACE_END
