// Hopper producers, of the forward and of the backward: they walk the pattern, load Q, K and V by TMA, and form the
// masks of partial tiles.
//
// All producer warps make the same walk, each for itself: it is cheaper than telling each other. Warp 0 loads Q and K,
// the next one V. With each K tile travels a TileNote: which rows see all, some or none of it; tile_masks.hpp has
// the mask words of partial tiles, and what becomes of values that nobody keeps.
// Barriers. rows_full / rows_empty: a Q tile and the WorkTile it belongs to; a WorkTile with `end` set is the last.
// first_full / first_empty and second_full / second_empty: rings of tiles. mask_empty: ring of mask words, published by
// the first_full of their tile. After a score sweep the consumers vote whether another one is needed, and `swept`
// tells.
#pragma once

#include <cute/arch/copy_sm90_tma.hpp>

#include "splash/collective/sm90/tile_masks.hpp"
#include "splash/collective/warp_walk.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct ProducerSm90 : TileMasksSm90<Config> {
  using Masks = TileMasksSm90<Config>;
  using Masks::params, Masks::shared, Masks::warp, Masks::lane, Masks::kWarps;
  using typename Masks::Params, typename Masks::SharedStorage, typename Masks::View;
  using Element = typename Config::Element;

  static constexpr int kValueWarp = kWarps > 1 ? 1 : 0;  ///< loads V, so that K need not wait until V has room

  /// Rings of one size that move together: the value's place is then kept only while it is needed.
  static constexpr bool kOneRing = Config::kKeyMajor && Config::kFirstStages == Config::kSecondStages;

  Ring<Config::kFirstStages> first_{};
  Ring<Config::kSecondStages> second_{};
  View pattern_;
  bool marked_ = false;  ///< this sweep is about marked tiles alone

  __device__ __forceinline__ ProducerSm90(const Params& params, SharedStorage& shared, int warp, int lane)
      : Masks(params, shared, warp, lane), pattern_{params.pattern} {}

  /// By all threads of all producer warps. The piece that they work on lies in shared memory: registers are few here.
  __device__ __forceinline__ void run() {
    for (;;) {
      sync_producers();
      if (warp == 0 && lane == 0) begin_next();
      sync_producers();
      WorkTile& work = shared.work[shared.work_slot];
      if (work.end) break;
      produce(work);
    }
    if (warp == 0 && lane == 0) {
      const auto q = shared.row_ring;
      wait(shared.rows_empty[q.slot()], q.phase() ^ 1);
      arrive(shared.rows_full[q.slot()]);
    }
  }

 private:
  using Masks::one_lane, Masks::query_of, Masks::sync_producers, Masks::wait_together, Masks::find_unread_rows,
      Masks::whole;
  using Masks::stats_of, Masks::write_stats, Masks::unread_columns, Masks::zero_columns;
  using Masks::work_again, Masks::expect_mask, Masks::write_full, Masks::write_mask;
  using typename Masks::ColumnStats;

  /// By one thread: the next piece that has rows. No consumer reads the slot any more: the Q tile before last took the
  /// place of the one that came with it; or, where pieces overlap, this one is about to.
  __device__ __forceinline__ void begin_next() {
    shared.work_slot = shared.work_slot + 1 == Config::kWorkSlots ? 0 : shared.work_slot + 1;
    WorkTile& work = shared.work[shared.work_slot];
    const Schedule& schedule = params.schedule;
    if constexpr (Config::kOverlaps) wait(shared.rows_empty[shared.row_ring.slot()], shared.row_ring.phase() ^ 1);
    if constexpr (Config::kZeroFillRows)
      for (unsigned& rows : shared.unread_rows[&work - shared.work]) rows = 0;
    for (;; claim()) {
      work.end = shared.next_item >= schedule.items || none_selected();
      if (work.end) return;
      make_work_tile(work, params.geometry, schedule, Config::kRows, shared.next_item);
      if (work.row_begin < work.row_count && selected(work)) break;
    }
    clip_columns(work);
  }

  __device__ __forceinline__ bool none_selected() const {
    if constexpr (Config::kSelects) return params.selected.flags && !*params.selected.any_flag;
    return false;
  }
  /// Where rows have flags: whether any of the piece, or of those between its rows, has one.
  __device__ __forceinline__ bool selected(const WorkTile& work) const {
    if constexpr (Config::kSelects) {
      if (!params.selected.flags) return true;
      const Geometry& geometry = params.geometry;
      const int chunks = CandidateLists::chunks(geometry.num_queries);
      const int last = min(work.row_begin + Config::kRows, work.row_count) - 1;
      const int from = int(row_at(geometry, work.queries, query_of(work.row_begin))) / kFlaggedRows,
                to = int(row_at(geometry, work.queries, query_of(last))) / kFlaggedRows;
      const unsigned char* line =
          params.selected.flags + (int64_t(batch_of(work)) * geometry.heads + work.frame.head) * chunks;
      for (int head = 0; head < geometry.pack(); ++head, line += chunks)
        for (int chunk = from; chunk <= to; ++chunk)
          if (line[chunk]) return true;
      return false;
    }
    return true;
  }

  /// With the last tile of a piece: earlier, a block of threads would keep a piece from others that end before it; and
  /// the answer takes a while.
  __device__ __forceinline__ void claim_next() {
    if (warp == 0 && lane == 0) claim();
  }

  /// Dealt out beforehand, the order turns round by round, so that whoever got the longest piece gets the shortest
  /// next.
  __device__ __forceinline__ void claim() {
    const int all = int(gridDim.x) * Config::kTeams, own = shared.first_item;
    if (params.schedule.counter) {
      shared.next_item = atomicAdd(params.schedule.counter, 1) + all;
      return;
    }
    const int round = ++shared.rounds;
    shared.next_item = round * all + (round & 1 ? all - 1 - own : own);
  }

  __device__ __forceinline__ int row_begin(const WorkTile& work) const { return query_of(work.row_begin); }
  __device__ __forceinline__ int row_end(const WorkTile& work) const {
    return min(query_of(work.row_begin + Config::kRows), work.frame.num_queries);
  }

  /// The rows and columns of a piece of work.
  struct Span {
    const ProducerSm90& producer;
    __device__ __forceinline__ int row_begin() const { return producer.row_begin(producer.work_again()); }
    __device__ __forceinline__ int row_end() const { return producer.row_end(producer.work_again()); }
    __device__ __forceinline__ int column_end() const { return producer.work_again().column_end; }
  };

  /// Makes walks along the columns of a piece of work.
  struct Walks {
    using Viewed = cute::remove_cvref_t<View>;
    static constexpr bool kBits = patterns::TileBitsPattern<Viewed>;
    const ProducerSm90& producer;
    const WorkTile& work;

    __device__ __forceinline__ bool has_bits() const {
      return producer.pattern_.has_tile_bits(work.frame, Config::kColumns);
    }
    template <WalkBy By>
    __device__ __forceinline__ WarpWalk<Viewed, Span, By> walk(int from) const {
      return {producer.pattern_, work.frame, Span{producer}, Config::kColumns, from};
    }
  };

  __device__ __forceinline__ auto walk_of(const WorkTile& work) const {
    const Walks walks{*this, work};
    if constexpr (Config::kBatchedWalk)
      return BatchedWalk(walks, work.column_begin);
    else
      return walks.template walk<WalkBy::either>(work.column_begin);
  }

  /// Key-major, the query heads of a group follow each other: on to the first tile of the next one that has any.
  template <class Walk>
  __device__ __forceinline__ void seek_member(Walk& walk, const WorkTile& work) {
    if constexpr (Config::kKeyMajor)
      while (walk.done() && pattern_.member + params.geometry.member_step < params.geometry.members_end) {
        pattern_.member += params.geometry.member_step;
        walk.restart(work.column_begin);
      }
  }

  /// A sweep over marked tiles leaves out the others; a piece that has one has marks.
  template <class Walk>
  __device__ __forceinline__ void pass_unmarked(Walk& walk) const {
    if constexpr (Config::kMarks)
      if (marked_)
        while (!walk.done() && !shared.marked(walk.begin() / Config::kColumns >> params.log2_marked)) walk.advance();
  }

  __device__ __forceinline__ void produce(WorkTile& work) {
    marked_ = false;
    if constexpr (Config::kZeroFillRows) find_unread_rows(pattern_, work);
    bool with_values = !Config::kScoreSweeps;
    for (bool first = true;; first = false) {
      if constexpr (Config::kKeyMajor) pattern_.member = 0;
      auto walk = walk_of(work);
      seek_member(walk, work);
      // With one Q tile, it is still in use by the piece before; the first keys need not wait for it.
      const bool any = !walk.done(), early = first && (!any || Config::kRowBuffers > 1);
      if (early && warp == 0 && lane == 0) load_first_rows(work, any);
      if (!any) {
        claim_next();
        return;
      }
      sweep(with_values, first && (Config::kOverlaps || !early), walk, work);
      if (with_values) return;
      if constexpr (Config::kMarks) {
        if (marked_) return;
        const int again = hear();
        marked_ = again == kMarkedTiles;
        if (!again) return claim_next();
      } else if constexpr (Config::kScoreSweeps) {
        with_values = !hear();
      }
    }
  }

  /// The part of the keys that a split looks at: as many tiles each, from the first key that the rows keep on.
  __device__ __forceinline__ void clip_columns(WorkTile& work) {
    const int split = work.column_begin, end = work.frame.num_keys;
    work.column_begin = 0;
    work.column_end = end;
    if (split < 0 || row_begin(work) >= row_end(work)) return;
    const int first = first_column(work) / Config::kColumns;
    const int tiles = (end + Config::kColumns - 1) / Config::kColumns - first;
    if (tiles <= 0) return;
    const int each = params.schedule.splits.quotient(tiles + params.schedule.splits.divisor - 1);
    work.column_begin = min((first + split * each) * Config::kColumns, end);
    work.column_end = min((first + (split + 1) * each) * Config::kColumns, end);
  }

  /// That the rows keep, of any query head that they meet.
  __device__ __forceinline__ int first_column(const WorkTile& work) {
    int first = kEnd;
    const int step = Config::kKeyMajor ? params.geometry.member_step : 1;
    for (int member = 0; member < (Config::kKeyMajor ? params.geometry.members_end : 1); member += step) {
      if constexpr (Config::kKeyMajor) pattern_.member = member;
      first = min(first, pattern_.next_column(work.frame, row_begin(work), row_end(work), 0));
    }
    return first;
  }

  /// After a score sweep: whether the consumers want another one. Slots of three sweeps rotate, so that one is cleared
  /// while nobody reads or writes it.
  __device__ __forceinline__ int hear() {
    const int sweep = shared.sweeps[warp];
    wait_together(shared.swept, sweep & 1);
    const int again = __shfl_sync(~0u, lane == 0 ? shared.votes[sweep % 3] : 0, 0);
    if (warp == 0 && lane == 0) shared.votes[(sweep + 2) % 3] = 0;
    if (lane == 0) shared.sweeps[warp] = sweep + 1;
    __syncwarp();
    return again;
  }

  __device__ __forceinline__ int batch_of(const WorkTile& work) const {
    return params.geometry.packed_sequences() ? 0 : work.frame.batch;
  }

  /// By one thread, which sends the piece along.
  __device__ __forceinline__ void load_first_rows(WorkTile& work, bool any) const {
    const auto q = shared.row_ring;
    shared.row_ring.advance();
    work.any = any;
    wait(shared.rows_empty[q.slot()], q.phase() ^ 1);
    auto& full = shared.rows_full[q.slot()];
    if (!any) {
      arrive(full);
      return;
    }
    load_rows<0, Config::kOverlaps ? 1 : Config::kRowTensors>(work, full, q.slot());
  }

  /// The second tensor of rows where pieces overlap, by one thread.
  __device__ __forceinline__ void load_late_rows(const WorkTile& work) const {
    const auto ring = shared.late_rows_ring;
    shared.late_rows_ring.advance();
    wait(shared.late_rows_empty, ring.phase() ^ 1);
    load_rows<1, 2>(work, shared.late_rows_full, 0);
  }

  /// Some of the tensors of rows.
  template <int First, int End>
  __device__ __forceinline__ void load_rows(const WorkTile& work, cutlass::arch::ClusterTransactionBarrier& full,
                                            int buffer) const {
    const auto& maps = params.maps;
    const bool later = work.queries.inner >= maps.long_query_classes;
    full.arrive_and_expect_tx((End - First) * Config::kBytesRows);
    const Place first{work.queries.outer, work.queries.inner - (later ? maps.long_query_classes : 0)};
    for (int w = 0; w < Config::kRowGroups; ++w) {
      const int row = query_of(work.row_begin + 64 * w);
      const Place at =
          Config::kKeyMajor ? key_place(params.geometry, first, row) : Place{first.outer + row, first.inner};
      for (int t = First; t < End; ++t) {
        const auto rows = maps.rows(t);
        load<64>(&rows.map[later], full, shared.rows.begin() + Config::row_tile(t, buffer, w) * 64 * Config::kHeadDim,
                 at.inner, at.outer, row_head(work) * rows.fold_head, batch_of(work) * rows.fold_batch,
                 TMA::CacheHintSm90::EVICT_FIRST);
      }
      if constexpr (requires { maps.out; })
        if (params.accumulate)
          for (int c = 0; c < Config::kHeadDim; c += Config::kBoxColumns)
            SM90_TMA_LOAD_5D::PREFETCH::copy(&maps.out[later], c, at.inner, at.outer, row_head(work), batch_of(work));
    }
  }

  __device__ __forceinline__ int row_head(const WorkTile& work) const {
    return Config::kKeyMajor ? work.frame.head / params.geometry.group : query_of(work.frame.head);
  }

  /// Its address, formed where it is needed: kept, both would be registers.
  __device__ __forceinline__ static const CUtensorMap* map_of(const CUtensorMap (&maps)[2], int later) {
    forget(later);
    return &maps[later];
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

  /// Where the maps have the columns of a piece.
  struct Columns {
    bool later;
    int inner, outer, batch;
  };
  __device__ __forceinline__ Columns columns_of(const WorkTile& work) const {
    const int classes = params.maps.long_key_classes;
    const bool later = work.keys.inner >= classes;
    return {later, work.keys.inner - (later ? classes : 0), work.keys.outer, batch_of(work)};
  }
  /// Read anew for each tile, where registers are fewer still.
  __device__ __forceinline__ Columns columns_again() const { return columns_of(work_again()); }

  /// Where the maps have the tile that begins at column `begin`.
  __device__ __forceinline__ Place place_of(const Columns& columns, int begin) const {
    if constexpr (Config::kKeyMajor) return {columns.outer + begin, columns.inner};
    return key_place(params.geometry, {columns.outer, columns.inner}, begin);
  }

  /// One copy of the walk serves both kinds of sweeps: the patterns' code is long.
  template <class Walk>
  __device__ __forceinline__ void sweep(bool with_values, bool with_queries, Walk& walk, WorkTile& work) {
    const Frame& frame = work.frame;
    const auto& maps = params.maps;
    // Shared memory is far for what each tile needs, but registers are few where columns have row statistics.
    const Columns columns_kept = columns_of(work);
    const int keys_kept = frame.num_keys;
    const auto columns = [&] {
      if constexpr (Config::kAll) return columns_again();
      return Config::kColumnStats ? columns_of(work) : columns_kept;
    };
    int head = Config::kKeyMajor ? frame.head : frame.head / params.geometry.group;
    pass_unmarked(walk);
    while (!walk.done()) {
      const int begin = walk.begin();
      const int keys = Config::kColumnStats ? frame.num_keys : keys_kept;
      const bool full =
          walk.state() == TileState::full && (Config::kAll ? whole(begin) : begin + Config::kColumns <= keys);
      const View pattern = pattern_;
      if constexpr (Config::kKeyMajor) head = frame.head + pattern.member;
      walk.advance();
      seek_member(walk, work);
      pass_unmarked(walk);
      if ((with_values || (Config::kMarks && marked_)) && walk.done()) claim_next();
      [[maybe_unused]] ColumnStats row_stats;
      if constexpr (Config::kColumnStats) row_stats = stats_of(work, head, begin);
      unsigned unread = 0;
      const auto find_unread = [&] {
        if constexpr (Config::kColumnStats)
          return unread_columns(pattern, frame, row_stats, begin, work.columns_inside);
        else
          return unread_columns(pattern, frame, begin, work.columns_inside, row_begin(work));
      };
      if constexpr (Config::kZeroFillFirst) unread = full ? 0 : find_unread();

      wait_together(shared.first_empty[first_.slot()], first_.phase() ^ 1);
      auto& note = shared.note[first_.slot()];
      auto& first_full = shared.first_full[first_.slot()];
      if (warp == 0 && cute::elect_one_sync()) {
        auto& landed = Config::kZeroFillFirst && unread ? shared.zero_fill : first_full;
        landed.arrive_and_expect_tx(Config::kBytesTile);
        const Columns from = columns();
        const Place at = place_of(from, begin);
        load<Config::kColumns>(map_of(maps.k, from.later), landed,
                               shared.first.begin() + first_.slot() * Config::kColumns * Config::kHeadDim, at.inner,
                               at.outer, head * maps.fold_k_head, from.batch * maps.fold_k_batch);
        note.masked = !full;
        note.last = walk.done();
        if constexpr (Config::kColumn) shared.first_column[first_.slot()] = begin;
        if constexpr (Config::kAll)
          shared.query_tile[first_.slot()] =
              query_tiles(params.geometry, Config::kColumns).first(params.geometry, frame, head, work.keys) +
              begin / Config::kColumns;
      }
      if constexpr (Config::kColumnStats) write_stats(row_stats, first_.slot());
      if (full)
        write_full(note, work);
      else if constexpr (Config::kLateMask)
        expect_mask(note);
      else
        write_mask(pattern, note, work, begin);
      if (Config::kZeroFillFirst && unread) {
        Tensor sK =
            make_tensor(make_smem_ptr(shared.first.begin()), typename Config::LayoutFirst{});  // (keys, D, stage)
        zero_columns(unread, first_full, [&](int c, int d) { return &sK(c, d, first_.slot()); });
      }
      __syncwarp();
      if (one_lane()) arrive(first_full);
      if constexpr (kOneRing) second_ = first_;
      first_.advance();

      const bool send_queries = with_queries && warp == 0;
      with_queries = false;
      if (!with_values) {
        if (send_queries && one_lane()) load_first_rows(work, true);
        continue;
      }
      if constexpr (Config::kZeroFillSecond && !Config::kZeroFillFirst) unread = full ? 0 : find_unread();
      const bool zero_fill = Config::kZeroFillSecond && unread;
      if (warp == kValueWarp) {
        wait_together(shared.second_empty[second_.slot()], second_.phase() ^ 1);
        if (cute::elect_one_sync()) {
          auto& landed = zero_fill ? shared.zero_fill : shared.second_full[second_.slot()];
          landed.arrive_and_expect_tx(Config::kBytesTile);
          const Columns from = columns();
          const Place at = place_of(from, begin);
          load<Config::kColumns>(map_of(maps.v, from.later), landed,
                                 shared.second.begin() + second_.slot() * Config::kColumns * Config::kHeadDim, at.inner,
                                 at.outer, head * maps.fold_v_head, from.batch * maps.fold_v_batch);
        }
        __syncwarp();
      }
      if (send_queries && one_lane()) {
        if constexpr (Config::kOverlaps)
          load_late_rows(work);
        else
          load_first_rows(work, true);
      }
      if (zero_fill) {
        Tensor sV =
            make_tensor(make_smem_ptr(shared.second.begin()), typename Config::LayoutSecond{});  // (D, keys, stage)
        zero_columns(unread, shared.second_full[second_.slot()],
                     [&](int c, int d) { return &sV(d, c, second_.slot()); });
      }
      if constexpr (Config::kLateMask)
        if (!full) write_mask(pattern, note, work_again(), begin);
      second_.advance();
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
