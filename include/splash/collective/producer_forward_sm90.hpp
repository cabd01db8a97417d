// Hopper forward producers: they walk the pattern, load Q, K and V by TMA, and form the masks of partial tiles.
//
// All producer warps make the same walk, each for itself: it is cheaper than telling each other. Warp 0 loads Q and K,
// the next one V. Of a partial tile every warp forms the mask words of some of the rows, 64 scores a word; consumers
// read words and know no pattern. With each K tile travels a TileNote: which rows see all, some or none of it.
// Barriers. q_full / q_empty: a Q tile and the Work it belongs to; a Work with `end` set is the last. k_full / k_empty
// and v_full / v_empty: rings of tiles. words_empty: ring of mask words, published by the k_full of their tile. After a
// score sweep the consumers vote whether another one is needed, and `swept` tells. Poison. Values of columns that no
// query of the problem keeps may be NaN; 0 * NaN would reach the output. The producers zero such columns of a V tile in
// shared memory before they hand the tile over.
#pragma once

#include <cute/arch/copy_sm90_tma.hpp>

#include "splash/collective/config_forward_sm90.hpp"
#include "splash/collective/warp_walk.hpp"
#include "splash/patterns/bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct ProducerForwardSm90 {
  using Element = typename Config::Element;
  using Pattern = typename Config::Pattern;
  using SharedStorage = typename Config::SharedStorage;
  using View = typename Config::View;  ///< of the pattern: a reference to it, or its transpose

  struct Params {
    typename Config::Maps maps;
    Pattern pattern;
    Geometry geometry;
    Schedule schedule;
    const float2* numbers;  ///< (B, Hq, Nq) where Config::kColumnNumbers
    float shift_factor;     ///< from shifts to raw scores where Config::kPreset
    bool accumulate;        ///< the consumers read the output of an earlier call
  };

  static constexpr int kWarps = Config::kProducerWarps;
  static constexpr int kValueWarp = kWarps > 1 ? 1 : 0;  ///< loads V, so that K need not wait until V has room

  const Params& params;
  SharedStorage& shared;
  int warp, lane;

  /// Rings of one size that move together: the value's place is then kept only while it is needed.
  static constexpr bool kOneRing = Config::kTeams > 1 && Config::kKeyStages == Config::kValueStages;

  Ring<Config::kKeyStages> k_{};
  Ring<Config::kValueStages> v_{};
  Ring<Config::kWordSlots> words_{};
  unsigned scrub_phase_ = 0;
  int sweeps_ = 0;
  View pattern_;

  __device__ __forceinline__ ProducerForwardSm90(const Params& params, SharedStorage& shared, int warp, int lane)
      : params(params), shared(shared), warp(warp), lane(lane), pattern_{params.pattern} {}

  /// By all threads of all producer warps. The piece that they work on lies in shared memory: registers are few here.
  __device__ __forceinline__ void run() {
    for (;;) {
      sync_producers();
      if (warp == 0 && lane == 0) begin_next();
      sync_producers();
      Work& work = shared.work[shared.work_slot];
      if (work.end) break;
      produce(work);
    }
    if (warp == 0 && lane == 0) {
      const auto q = shared.query_ring;
      wait(shared.q_empty[q.slot()], q.phase() ^ 1);
      arrive(shared.q_full[q.slot()]);
    }
  }

 private:
  /// By one thread: the next piece that has rows. Its successor is asked for early, since the answer takes a while. No
  /// consumer reads the slot any more: the Q tile before last took the place of the one that came with it.
  __device__ __forceinline__ void begin_next() {
    shared.work_slot = shared.work_slot + 1 == Config::kWorkSlots ? 0 : shared.work_slot + 1;
    Work& work = shared.work[shared.work_slot];
    const Schedule& schedule = params.schedule;
    for (;;) {
      const int index = shared.next_item;
      work.end = index >= schedule.items;
      if (work.end) return;
      shared.next_item = successor();
      make_work(work, params.geometry, schedule, Config::kRows, index);
      if (work.row_begin < work.row_count) break;
    }
    clip_columns(work);
  }

  /// Dealt out beforehand, the order turns round by round, so that whoever got the longest piece gets the shortest
  /// next.
  __device__ __forceinline__ int successor() {
    const int all = int(gridDim.x) * Config::kTeams, own = shared.first_item;
    if (params.schedule.counter) return atomicAdd(params.schedule.counter, 1) + all;
    const int round = ++shared.rounds;
    return round * all + (round & 1 ? all - 1 - own : own);
  }

  __device__ __forceinline__ int barrier() const {
    if constexpr (Config::kTeams > 1) return shared.producer_barrier;
    return kProducers;
  }

  __device__ __forceinline__ void sync_producers() const {
    if constexpr (kWarps > 1)
      cutlass::arch::NamedBarrier::sync(32 * kWarps, barrier());
    else
      __syncwarp();
  }

  __device__ __forceinline__ bool any_producer(bool mine) const {
    if constexpr (kWarps == 1) return __any_sync(~0u, mine);
    int any;
    asm volatile(
        "{\n"
        ".reg .pred p, q;\n"
        "setp.ne.s32 p, %1, 0;\n"
        "barrier.cta.red.or.pred q, %2, %3, p;\n"
        "selp.s32 %0, 1, 0, q;\n"
        "}"
        : "=r"(any)
        : "r"(int(mine)), "r"(barrier() + int(cutlass::arch::NamedBarrier::ReservedNamedBarrierCount)), "n"(32 * kWarps)
        : "memory");
    return any;
  }

  /// By a whole warp. Lanes that saw the barrier pass apart from each other would stay apart, and run all that follows
  /// twice.
  template <class Barrier>
  __device__ __forceinline__ static void wait_together(Barrier& barrier, unsigned phase) {
    wait(barrier, phase);
    __syncwarp();
  }

  __device__ __forceinline__ int query_of(int row) const { return row >> params.geometry.log2_pack; }
  __device__ __forceinline__ int row_begin(const Work& work) const { return query_of(work.row_begin); }
  __device__ __forceinline__ int row_end(const Work& work) const {
    return min(query_of(work.row_begin + Config::kRows), work.frame.num_queries);
  }

  /// Makes walks along the columns of a piece of work.
  struct Walks {
    using Viewed = cute::remove_cvref_t<View>;
    static constexpr bool kBits = patterns::TileBitsPattern<Viewed>;
    const ProducerForwardSm90& producer;
    const Work& work;

    __device__ __forceinline__ bool has_bits() const {
      return producer.pattern_.has_tile_bits(work.frame, Config::kKeys);
    }
    template <WalkBy By>
    __device__ __forceinline__ WarpWalk<Viewed, By> walk(int from) const {
      return {producer.pattern_, work.frame, producer.row_begin(work), producer.row_end(work), work.column_end,
              Config::kKeys,     from};
    }
  };

  __device__ __forceinline__ auto walk_of(const Work& work) const {
    const Walks walks{*this, work};
    if constexpr (Config::kTeams > 1)
      return BatchedWalk(walks, work.column_begin);
    else
      return walks.template walk<WalkBy::either>(work.column_begin);
  }

  /// Key-major, the query heads of a group follow each other: on to the first tile of the next one that has any.
  template <class Walk>
  __device__ __forceinline__ void seek_member(Walk& walk, const Work& work) {
    if constexpr (Config::kKeyMajor)
      while (walk.done() && pattern_.member + 1 < params.geometry.group) {
        ++pattern_.member;
        walk.restart(work.column_begin);
      }
  }

  __device__ __forceinline__ void produce(Work& work) {
    bool with_values = !Config::kScoreSweeps;
    for (bool first = true;; first = false) {
      if constexpr (Config::kKeyMajor) pattern_.member = 0;
      auto walk = walk_of(work);
      seek_member(walk, work);
      // With one Q tile, it is still in use by the piece before; the first keys need not wait for it.
      const bool any = !walk.done(), early = first && (!any || Config::kQueryBuffers > 1);
      if (early && warp == 0 && lane == 0) load_queries(work, any);
      if (!any) return;
      sweep(with_values, first && !early, walk, work);
      if (with_values) return;
      with_values = !hear();
    }
  }

  /// The part of the keys that a split looks at: as many tiles each, from the first key that the rows keep on.
  __device__ __forceinline__ void clip_columns(Work& work) {
    const int split = work.column_begin, end = work.frame.num_keys;
    work.column_begin = 0;
    work.column_end = end;
    if (split < 0 || row_begin(work) >= row_end(work)) return;
    const int first = first_column(work) / Config::kKeys;
    const int tiles = (end + Config::kKeys - 1) / Config::kKeys - first;
    if (tiles <= 0) return;
    const int each = params.schedule.splits.quotient(tiles + params.schedule.splits.divisor - 1);
    work.column_begin = min((first + split * each) * Config::kKeys, end);
    work.column_end = min((first + (split + 1) * each) * Config::kKeys, end);
  }

  /// That the rows keep, of any query head that they meet.
  __device__ __forceinline__ int first_column(const Work& work) {
    int first = kEnd;
    for (int member = 0; member < (Config::kKeyMajor ? params.geometry.group : 1); ++member) {
      if constexpr (Config::kKeyMajor) pattern_.member = member;
      first = min(first, pattern_.next_column(work.frame, row_begin(work), row_end(work), 0));
    }
    return first;
  }

  /// After a score sweep: whether the consumers want another one. Slots of three sweeps rotate, so that one is cleared
  /// while nobody reads or writes it.
  __device__ __forceinline__ bool hear() {
    wait_together(shared.swept, sweeps_ & 1);
    const bool again = __shfl_sync(~0u, lane == 0 ? shared.votes[sweeps_ % 3] : 0, 0);
    if (warp == 0 && lane == 0) shared.votes[(sweeps_ + 2) % 3] = 0;
    ++sweeps_;
    return again;
  }

  __device__ __forceinline__ int batch_of(const Work& work) const {
    return params.geometry.packed_sequences() ? 0 : work.frame.batch;
  }

  /// By one thread, which sends the piece along.
  __device__ __forceinline__ void load_queries(Work& work, bool any) const {
    const auto q = shared.query_ring;
    shared.query_ring.advance();
    work.any = any;
    wait(shared.q_empty[q.slot()], q.phase() ^ 1);
    auto& full = shared.q_full[q.slot()];
    if (!any) {
      arrive(full);
      return;
    }
    const auto& maps = params.maps;
    const bool later = work.queries.inner >= maps.long_query_classes;
    full.arrive_and_expect_tx(Config::kRowTensors * Config::kBytesQ);
    const int inner = work.queries.inner - (later ? maps.long_query_classes : 0);
    for (int w = 0; w < Config::kConsumers; ++w) {
      const int outer = work.queries.outer + query_of(work.row_begin + 64 * w);
      for (int t = 0; t < Config::kRowTensors; ++t) {
        const auto rows = maps.rows(t);
        load<64>(&rows.map[later], full, shared.q.begin() + Config::row_tile(t, q.slot(), w) * 64 * Config::kHeadDim,
                 inner, outer, row_head(work) * rows.fold_head, batch_of(work) * rows.fold_batch,
                 TMA::CacheHintSm90::EVICT_FIRST);
      }
      if constexpr (requires { maps.out; })
        if (params.accumulate)
          for (int c = 0; c < Config::kHeadDim; c += Config::kBoxColumns)
            SM90_TMA_LOAD_5D::PREFETCH::copy(&maps.out[later], c, inner, outer, row_head(work), batch_of(work));
    }
  }

  __device__ __forceinline__ int row_head(const Work& work) const {
    return Config::kKeyMajor ? work.frame.head / params.geometry.group : query_of(work.frame.head);
  }

  template <int Rows>
  __device__ __forceinline__ static void load(const CUtensorMap* map, cutlass::arch::ClusterTransactionBarrier& full,
                                              Element* to, int inner, int outer, int head, int batch,
                                              TMA::CacheHintSm90 hint = TMA::CacheHintSm90::EVICT_NORMAL) {
    CUTE_UNROLL
    for (int c = 0; c < Config::kHeadDim; c += Config::kBoxColumns)
      SM90_TMA_LOAD_5D::copy(map, reinterpret_cast<uint64_t*>(&full), uint64_t(hint), to + c * Rows, c, inner, outer,
                             head, batch);
  }

  /// Where the maps have the columns of a piece of work.
  struct Origin {
    bool later;
    int inner, outer, batch;
  };
  __device__ __forceinline__ Origin origin_of(const Work& work) const {
    const bool later = work.keys.inner >= params.maps.long_key_classes;
    return {later, work.keys.inner - (later ? params.maps.long_key_classes : 0), work.keys.outer, batch_of(work)};
  }

  /// Where the maps have the tile of keys that begins at column `begin`.
  __device__ __forceinline__ Place place_of(const Origin& origin, int begin) const {
    if (params.geometry.keys_in_runs == 0) return {origin.outer + begin, origin.inner};
    const int run = params.geometry.run_length.quotient(begin);
    return {run, begin - run * params.geometry.run_length.divisor};
  }

  /// One copy of the walk serves both kinds of sweeps: the patterns' code is long.
  template <class Walk>
  __device__ __forceinline__ void sweep(bool with_values, bool with_queries, Walk& walk, Work& work) {
    const Frame& frame = work.frame;
    const auto& maps = params.maps;
    // Shared memory is far for what each tile needs, but registers are few where columns have numbers.
    const Origin origin_kept = origin_of(work);
    const int keys_kept = frame.num_keys;
    const auto origin = [&] { return Config::kColumnNumbers ? origin_of(work) : origin_kept; };
    int head = Config::kKeyMajor ? frame.head : frame.head / params.geometry.group;
    while (!walk.done()) {
      const int begin = walk.begin();
      const int keys = Config::kColumnNumbers ? frame.num_keys : keys_kept;
      const bool full = walk.state() == TileState::full && begin + Config::kKeys <= keys;
      const View pattern = pattern_;
      if constexpr (Config::kKeyMajor) head = frame.head + pattern.member;
      walk.advance();
      seek_member(walk, work);
      [[maybe_unused]] Numbers numbers;
      if constexpr (Config::kColumnNumbers) numbers = numbers_of(work, head, begin);
      unsigned dead = 0;
      const auto find_dead = [&] {
        if constexpr (Config::kColumnNumbers)
          return dead_columns(numbers, begin, work.columns_inside);
        else
          return dead_columns(pattern, frame, begin, work.columns_inside, row_begin(work));
      };
      if constexpr (Config::kScrubFirst) dead = full ? 0 : find_dead();

      wait_together(shared.k_empty[k_.slot()], k_.phase() ^ 1);
      auto& note = shared.note[k_.slot()];
      auto& k_full = shared.k_full[k_.slot()];
      if (warp == 0 && cute::elect_one_sync()) {
        auto& landed = Config::kScrubFirst && dead ? shared.scrub : k_full;
        landed.arrive_and_expect_tx(Config::kBytesTile);
        const Origin from = origin();
        const Place at = place_of(from, begin);
        load<Config::kKeys>(&maps.k[from.later], landed,
                            shared.k.begin() + k_.slot() * Config::kKeys * Config::kHeadDim, at.inner, at.outer,
                            head * maps.fold_k_head, from.batch * maps.fold_k_batch);
        note.words = !full;
        note.last = walk.done();
      }
      if constexpr (Config::kColumnNumbers) write_numbers(numbers);
      if (full)
        write_full(note, work);
      else
        write_words(pattern, note, work, begin);
      if (Config::kScrubFirst && dead) {
        Tensor sK = make_tensor(make_smem_ptr(shared.k.begin()), typename Config::LayoutK{});  // (keys, D, stage)
        zero_columns(dead, k_full, [&](int c, int d) { return &sK(c, d, k_.slot()); });
      }
      __syncwarp();
      if (cute::elect_one_sync()) arrive(k_full);
      if constexpr (kOneRing) v_ = k_;
      k_.advance();

      const bool send_queries = with_queries && warp == 0;
      with_queries = false;
      if (!with_values) {
        if (send_queries && cute::elect_one_sync()) load_queries(work, true);
        continue;
      }
      if constexpr (Config::kScrubSecond && !Config::kScrubFirst) dead = full ? 0 : find_dead();
      const bool scrub = Config::kScrubSecond && dead;
      if (warp == kValueWarp) {
        wait_together(shared.v_empty[v_.slot()], v_.phase() ^ 1);
        if (cute::elect_one_sync()) {
          auto& landed = scrub ? shared.scrub : shared.v_full[v_.slot()];
          landed.arrive_and_expect_tx(Config::kBytesTile);
          const Origin from = origin();
          const Place at = place_of(from, begin);
          load<Config::kKeys>(&maps.v[from.later], landed,
                              shared.v.begin() + v_.slot() * Config::kKeys * Config::kHeadDim, at.inner, at.outer,
                              head * maps.fold_v_head, from.batch * maps.fold_v_batch);
        }
        __syncwarp();
      }
      if (send_queries && cute::elect_one_sync()) load_queries(work, true);
      if (scrub) {
        Tensor sV = make_tensor(make_smem_ptr(shared.v.begin()), typename Config::LayoutV{});  // (D, keys, stage)
        zero_columns(dead, shared.v_full[v_.slot()], [&](int c, int d) { return &sV(d, c, v_.slot()); });
      }
      v_.advance();
    }
  }

  /// Chunks of padding alone let the tile pass.
  __device__ __forceinline__ void write_full(typename Config::TileNote& note, const Work& work) const {
    const int real = work.frame.num_queries << params.geometry.log2_pack;
    if (cute::elect_one_sync())
      for (int chunk = warp; chunk < Config::kChunks; chunk += kWarps)
        note.state[chunk] = work.row_begin + 32 * chunk < real ? Config::kFull : Config::kEmpty;
  }

  /// Rows that are padding keep nothing, but do not count against a full chunk.
  __device__ __forceinline__ void write_words(const View& pattern, typename Config::TileNote& note, const Work& work,
                                              int begin) {
    const Frame& frame = work.frame;
    wait_together(shared.words_empty[words_.slot()], words_.phase() ^ 1);
#pragma unroll 1
    for (int chunk = warp; chunk < Config::kChunks; chunk += kWarps) {
      const int first = query_of(work.row_begin + 32 * chunk), row = query_of(work.row_begin + 32 * chunk + lane);
      const bool real = row < frame.num_queries;
      bool all = true, some = false;
#pragma unroll 1
      for (int w = 0; w < Config::kWords; ++w) {
        const int column = begin + 64 * w;
        constexpr int kLast = Config::kKeys - 64 * (Config::kWords - 1);
        const uint64_t valid =
            patterns::bits_between(0, min(w + 1 < Config::kWords ? 64 : kLast, frame.num_keys - column) - 1);
        uint64_t kept = 0;
        if constexpr (Config::kKeyMajor)
          kept = word_of_columns(pattern, frame, first, column) & (real ? valid : 0);
        else if (real && valid)
          kept = patterns::kept_bits(pattern, frame, row, column) & valid;
        const uint64_t wanted =
            w + 1 < Config::kWords || kLast == 64 ? ~uint64_t(0) : patterns::bits_between(0, kLast - 1);
        shared.words[words_.slot()][w][32 * chunk + lane] = kept;
        all &= !real || kept == wanted;
        some |= kept != 0;
      }
      const bool keeps_all = __all_sync(~0u, all), keeps_some = __any_sync(~0u, some);
      if (lane == 0) note.state[chunk] = !keeps_some ? Config::kEmpty : (keeps_all ? Config::kFull : Config::kPartial);
    }
    words_.advance();
  }

  /// Key-major: bit c of lane l is the score of column + c and row first + l. Patterns answer along their keys, which
  /// are rows here: a lane asks for a column, and the votes of a warp are the words of its rows.
  __device__ __forceinline__ uint64_t word_of_columns(const View& pattern, const Frame& frame, int first,
                                                      int column) const {
    uint64_t word = 0;
#pragma unroll 1
    for (int half = 0; half < 64; half += 32) {
      const int own = column + half + lane;
      uint32_t bits = 0;
      if (first < frame.num_queries && own < frame.num_keys) bits = uint32_t(pattern.kept_rows(frame, first, own));
      uint32_t votes = 0;
#pragma unroll 4
      for (int row = 0; row < 32; ++row) {
        const uint32_t vote = __ballot_sync(~0u, bits & 1);
        if (lane == row) votes = vote;
        bits >>= 1;
      }
      word |= uint64_t(votes) << half;
    }
    return word;
  }

  /// Of the lanes of all warps together each column has one.
  __device__ __forceinline__ static bool in_tile(int column) {
    return Config::kKeys % (32 * kWarps) == 0 || column < Config::kKeys;
  }

  /// Of the columns 32 (n kWarps + warp) + lane.
  struct Numbers {
    float2 of[(Config::kKeys + 32 * kWarps - 1) / (32 * kWarps)];
  };

  /// Key-major: what the forward left of this lane's columns, which are queries. Asked for early, since it takes a
  /// while.
  __device__ __forceinline__ Numbers numbers_of(const Work& work, int head, int begin) const {
    Numbers numbers;
    int column = 32 * warp + lane;
    CUTE_UNROLL
    for (float2& own : numbers.of) {
      own = Config::kNoNumbers;
      if (in_tile(column) && begin + column < work.frame.num_keys)
        own = params.numbers[query_at(params.geometry, work.frame, head, work.keys, begin + column)];
      column += 32 * kWarps;
    }
    return numbers;
  }
  __device__ __forceinline__ void write_numbers(const Numbers& numbers) const {
    int column = 32 * warp + lane;
    CUTE_UNROLL
    for (const float2& own : numbers.of) {
      if (!in_tile(column)) break;
      shared.shift[k_.slot()][column] = Config::kPreset ? own.x * params.shift_factor : own.x;
      shared.delta[k_.slot()][column] = Config::kPreset ? -own.y : own.y;
      column += 32 * kWarps;
    }
  }

  /// The columns of the tile before `inside`, where the tensor ends, that no row of the problem keeps: bit n of a lane
  /// is column 32 (n kWarps + warp) + lane. TMA zeroes what lies outside of the tensor. Where any producer has one,
  /// none gets 0: bit 31 then. row: the first of the tile at hand.
  __device__ __forceinline__ unsigned dead_columns(const View& pattern, const Frame& frame, int begin, int inside,
                                                   int row) const {
    const int end = min(begin + Config::kKeys, frame.num_keys);
    if (end == min(begin + Config::kKeys, inside) && patterns::keeps_self(pattern, frame)) {
      const int first = frame.j(begin) - frame.q_start, last = frame.j(end - 1) - frame.q_start;
      if (first >= 0 && last < frame.num_queries) return 0;
    }
    unsigned found = 0, bit = 1;
#pragma unroll 1
    for (int c = 32 * warp + lane; c < Config::kKeys; c += 32 * kWarps, bit <<= 1)
      if (dead(pattern, frame, begin + c, inside, row)) found |= bit;
    return any_producer(found != 0) ? found | 1u << 31 : 0;
  }

  /// The same of queries: the forward's results tell which of them keep nothing.
  __device__ __forceinline__ unsigned dead_columns(const Numbers& numbers, int begin, int inside) const {
    unsigned found = 0, bit = 1;
    int column = 32 * warp + lane;
    CUTE_UNROLL
    for (const float2& own : numbers.of) {
      if (in_tile(column) && begin + column < inside && own.x == Config::kNoNumbers.x) found |= bit;
      column += 32 * kWarps;
      bit <<= 1;
    }
    return any_producer(found != 0) ? found | 1u << 31 : 0;
  }

  /// Asks the rows from `first` on before the others: those of the tile at hand are likely to keep its columns.
  __device__ __forceinline__ static bool dead(const View& pattern, const Frame& frame, int column, int inside,
                                              int first) {
    if (column >= inside) return false;
    if (column >= frame.num_keys) return true;
#pragma unroll 1
    for (int row = first, end = frame.num_queries;; ++row) {
      row = pattern.next_row(frame, column, column + 1, row);
      if (row < end) {
        if (pattern.keep(frame, row, column)) return false;
        continue;
      }
      if (end == first || first == 0) return true;
      row = -1;
      end = first;
    }
  }

  /// Once the tile has landed; then one thread arrives at `full`.
  template <class At>
  __device__ __forceinline__ void zero_columns(unsigned dead, cutlass::arch::ClusterTransactionBarrier& full,
                                               const At& at) {
    wait_together(shared.scrub, scrub_phase_);
    scrub_phase_ ^= 1;
#pragma unroll 1
    for (int c = 32 * warp + lane; c < Config::kKeys; c += 32 * kWarps, dead >>= 1)
      if (dead & 1)
        for (int d = 0; d < Config::kHeadDim; d += 8) *reinterpret_cast<uint4*>(at(c, d)) = make_uint4(0, 0, 0, 0);
    cutlass::arch::fence_view_async_shared();
    sync_producers();
    if (warp == 0 && lane == 0) arrive(full);
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
