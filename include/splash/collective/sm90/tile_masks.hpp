// What counts of a tile, by all producer warps together: mask words of partial tiles, and zeros for what nobody keeps.
//
// Of a partial tile every warp forms the mask words of some of the rows, 64 scores a word; consumers read words and
// know no pattern. Poison. Values of keys that no query of the problem keeps may be NaN, and those of queries that keep
// nothing; 0 * NaN would reach a result. Such columns are zeroed in shared memory before their tile is handed over. The
// pattern tells which keys these are, the forward's statistic which queries. The fused backward notes such rows, too,
// for its consumers.
#pragma once

#include <cute/arch/cluster_sm90.hpp>

#include "splash/collective/sm90/tiles.hpp"
#include "splash/core/candidates.hpp"
#include "splash/patterns/bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

/// What the producers of a kernel are given.
template <class Config>
struct ParamsProducerSm90 {
  typename Config::Maps maps;
  typename Config::Pattern pattern;
  Geometry geometry;
  Schedule schedule;
  const float2* row_stats;  ///< (B, Hq, Nq) where Config::kColumnStats
  float shift_factor;       ///< from shifts to raw scores where Config::kPreset
  bool accumulate;          ///< the consumers read the output of an earlier call
  int log2_marked;          ///< tiles that share a mark, where Config::kMarks
  CandidateLists selected;  ///< where Config::kSelects: its flags say which rows a call is about; nullptr: all
};

template <class Config>
struct TileMasksSm90 {
  using Pattern = typename Config::Pattern;
  using SharedStorage = typename Config::SharedStorage;
  using View = typename Config::View;  ///< of the pattern: a reference to it, or its transpose
  using Params = ParamsProducerSm90<Config>;

  static constexpr int kWarps = Config::kProducerWarps;

  const Params& params;
  SharedStorage& shared;
  int warp, lane;

  Ring<Config::kMaskSlots> mask_{};
  unsigned zero_fill_phase_ = 0;

  __device__ __forceinline__ TileMasksSm90(const Params& params, SharedStorage& shared, int warp, int lane)
      : params(params), shared(shared), warp(warp), lane(lane) {}

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

  /// By a whole warp. Producers of teams have no register for the lane's number; others spill where it is not asked.
  __device__ __forceinline__ bool one_lane() const {
    if constexpr (Config::kTeams > 1) return cute::elect_one_sync();
    return lane == 0;
  }

  /// The piece at hand, looked for anew: registers are fewer than what is known of it.
  __device__ __forceinline__ const WorkTile& work_again() const {
    int slot = shared.work_slot;
    forget(slot);
    return shared.work[slot];
  }

  __device__ __forceinline__ int query_of(int row) const { return row >> params.geometry.log2_pack; }

  /// Whether no row or column of the tile is padding: what rows of padding give must not reach dQ, either.
  __device__ __forceinline__ bool whole(int begin) const {
    const WorkTile& work = work_again();
    return begin + Config::kColumns <= work.frame.num_keys && work.row_begin + Config::kRows <= work.frame.num_queries;
  }

  /// Chunks of padding alone let the tile pass.
  __device__ __forceinline__ void write_full(typename Config::TileNote& note, const WorkTile& work) const {
    const int real = work.frame.num_queries << params.geometry.log2_pack;
    if (one_lane())
      for (int chunk = warp; chunk < Config::kChunks; chunk += kWarps)
        note.state[chunk] = work.row_begin + 32 * chunk < real ? Config::kFull : Config::kEmpty;
  }

  /// Where words come late their tile is sent as one whose chunks all need them.
  __device__ __forceinline__ void expect_mask(typename Config::TileNote& note) const {
    if (one_lane())
      for (int chunk = warp; chunk < Config::kChunks; chunk += kWarps) note.state[chunk] = Config::kPartial;
  }

  /// Rows that are padding keep nothing, but do not count against a full chunk.
  __device__ __forceinline__ void write_mask(const View& pattern, typename Config::TileNote& note, const WorkTile& work,
                                             int begin) {
    const Frame& frame = work.frame;
    wait_together(shared.mask_empty[mask_.slot()], mask_.phase() ^ 1);
#pragma unroll 1
    for (int chunk = warp; chunk < Config::kChunks; chunk += kWarps) {
      const int first = query_of(work.row_begin + 32 * chunk), row = query_of(work.row_begin + 32 * chunk + lane);
      const bool real = row < frame.num_queries;
      bool all = true, some = false;
#pragma unroll 1
      for (int w = 0; w < Config::kMaskWords; ++w) {
        const int column = begin + 64 * w;
        constexpr int kLast = Config::kColumns - 64 * (Config::kMaskWords - 1);
        const uint64_t valid =
            patterns::bits_between(0, min(w + 1 < Config::kMaskWords ? 64 : kLast, frame.num_keys - column) - 1);
        uint64_t kept = 0;
        if constexpr (Config::kKeyMajor)
          kept = word_of_columns(pattern, frame, first, column) & (real ? valid : 0);
        else if (real && valid)
          kept = patterns::kept_bits(pattern, frame, row, column) & valid;
        const uint64_t wanted =
            w + 1 < Config::kMaskWords || kLast == 64 ? ~uint64_t(0) : patterns::bits_between(0, kLast - 1);
        shared.mask_bits[mask_.slot()][w][32 * chunk + lane] = kept;
        all &= (!real && !Config::kAll) || kept == wanted;
        some |= kept != 0;
      }
      if constexpr (Config::kLateMask) continue;
      const bool keeps_all = __all_sync(~0u, all), keeps_some = __any_sync(~0u, some);
      if (lane == 0) note.state[chunk] = !keeps_some ? Config::kEmpty : (keeps_all ? Config::kFull : Config::kPartial);
    }
    if constexpr (Config::kLateMask) {
      __syncwarp();
      if (one_lane()) arrive(shared.mask_full[mask_.slot()]);
    }
    mask_.advance();
  }

  /// Of a warp's 32 x 32 bits: bit c of lane r was bit r of lane c. Blocks of 16 off the diagonal change places, then
  /// those of 8, and so on.
  __device__ __forceinline__ uint32_t transposed(uint32_t bits) const {
    constexpr uint32_t kLow[] = {0x55555555, 0x33333333, 0x0f0f0f0f, 0x00ff00ff, 0x0000ffff};
    CUTE_UNROLL
    for (int n = 4; n >= 0; --n) {
      const int step = 1 << n;
      const uint32_t other = __shfl_xor_sync(~0u, bits, step);
      bits = lane & step ? (bits & ~kLow[n]) | (other >> step & kLow[n]) : (bits & kLow[n]) | (other & kLow[n]) << step;
    }
    return bits;
  }

  /// Key-major: bit c of lane l is the score of column + c and row first + l. Patterns answer along their keys, which
  /// are rows here: a lane asks for a column, and the warp transposes.
  __device__ __forceinline__ uint64_t word_of_columns(const View& pattern, const Frame& frame, int first,
                                                      int column) const {
    uint64_t word = 0;
#pragma unroll 1
    for (int half = 0; half < 64; half += 32) {
      const int own = column + half + lane;
      uint32_t bits = 0;
      if (first < frame.num_queries && own < frame.num_keys) bits = uint32_t(pattern.kept_rows(frame, first, own));
      word |= uint64_t(transposed(bits)) << half;
    }
    return word;
  }

  /// Of the lanes of all warps together each column has one.
  __device__ __forceinline__ static bool in_tile(int column) {
    return Config::kColumns % (32 * kWarps) == 0 || column < Config::kColumns;
  }

  /// Of the columns 32 (n kWarps + warp) + lane.
  struct ColumnStats {
    float2 of[(Config::kColumns + 32 * kWarps - 1) / (32 * kWarps)];
  };

  /// Key-major: what the forward left of this lane's columns, which are queries. Asked for early, since it takes a
  /// while.
  __device__ __forceinline__ ColumnStats stats_of(const WorkTile& work, int head, int begin) const {
    ColumnStats row_stats;
    int column = 32 * warp + lane;
    CUTE_UNROLL
    for (float2& own : row_stats.of) {
      own = Config::kNoStats;
      if (in_tile(column) && begin + column < work.frame.num_keys)
        own = params.row_stats[query_at(params.geometry, work.frame, head, work.keys, begin + column)];
      column += 32 * kWarps;
    }
    return row_stats;
  }
  __device__ __forceinline__ void write_stats(const ColumnStats& row_stats, int slot) const {
    int column = 32 * warp + lane;
    CUTE_UNROLL
    for (const float2& own : row_stats.of) {
      if (!in_tile(column)) break;
      shared.shift[slot][column] = Config::kPreset ? own.x * params.shift_factor : own.x;
      shared.delta[slot][column] = Config::kPreset ? -own.y : own.y;
      column += 32 * kWarps;
    }
  }

  /// Notes the rows of the piece that nobody keeps, which the consumers zero. TMA zeroes what lies outside of the
  /// tensor.
  __device__ __forceinline__ void find_unread_rows(const View& view, const WorkTile& work) {
    static_assert(Config::kRows == 32 * kWarps, "a row a lane");
    const Frame& frame = work.frame;
    const int end = min(work.row_begin + Config::kRows, work.row_count);
    if (!params.geometry.packed_sequences() && end <= frame.num_queries && view.keeps_self(frame)) {
      const int first = frame.i(work.row_begin) - frame.k_start, last = frame.i(end - 1) - frame.k_start;
      if (first >= 0 && last < frame.num_keys) return;
    }
    const unsigned unread = __ballot_sync(~0u, nobody_keeps(view, work, work.row_begin + 32 * warp + lane));
    if (lane == 0) shared.unread_rows[&work - shared.work][warp] = unread;
    sync_producers();
  }

  __device__ __forceinline__ bool nobody_keeps(const View& view, const WorkTile& work, int row) const {
    const Frame& frame = work.frame;
    if (row >= frame.num_queries) return params.geometry.packed_sequences() || row < work.row_count;
    View pattern = view;
#pragma unroll 1
    for (pattern.member = 0; pattern.member < params.geometry.group; ++pattern.member) {
#pragma unroll 1
      for (int column = 0;; ++column) {
        column = pattern.next_column(frame, row, row + 1, column);
        if (column >= frame.num_keys) break;
        if (pattern.keep(frame, row, column)) return false;
      }
    }
    return true;
  }

  /// Whether each column of the tile is kept by its own row.
  __device__ __forceinline__ static bool all_alive(const View& pattern, const Frame& frame, int begin, int inside) {
    const int end = min(begin + Config::kColumns, frame.num_keys);
    if (end < min(begin + Config::kColumns, inside) || !patterns::keeps_self(pattern, frame)) return false;
    const int first = frame.j(begin) - frame.q_start, last = frame.j(end - 1) - frame.q_start;
    return first >= 0 && last < frame.num_queries;
  }

  /// The columns of the tile before `inside`, where the tensor ends, that no row of the problem keeps: bit n of a lane
  /// is column 32 (n kWarps + warp) + lane. TMA zeroes what lies outside of the tensor. Where any producer has one,
  /// none gets 0: bit 31 then. row: the first of the tile at hand.
  __device__ __forceinline__ unsigned unread_columns(const View& pattern, const Frame& frame, int begin, int inside,
                                                     int row) const {
    if (all_alive(pattern, frame, begin, inside)) return 0;
    unsigned found = 0, bit = 1;
#pragma unroll 1
    for (int c = 32 * warp + lane; c < Config::kColumns; c += 32 * kWarps, bit <<= 1)
      if (unread(pattern, frame, begin + c, inside, row)) found |= bit;
    return any_producer(found != 0) ? found | 1u << 31 : 0;
  }

  /// The same of queries: the forward's results tell which of them keep nothing, but take a while to come.
  __device__ __forceinline__ unsigned unread_columns(const View& pattern, const Frame& frame,
                                                     const ColumnStats& row_stats, int begin, int inside) const {
    if (all_alive(pattern, frame, begin, inside)) return 0;
    unsigned found = 0, bit = 1;
    int column = 32 * warp + lane;
    CUTE_UNROLL
    for (const float2& own : row_stats.of) {
      if (in_tile(column) && begin + column < inside && own.x == Config::kNoStats.x) found |= bit;
      column += 32 * kWarps;
      bit <<= 1;
    }
    return any_producer(found != 0) ? found | 1u << 31 : 0;
  }

  /// Asks the rows from `first` on before the others: those of the tile at hand are likely to keep its columns.
  __device__ __forceinline__ static bool unread(const View& pattern, const Frame& frame, int column, int inside,
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
  __device__ __forceinline__ void zero_columns(unsigned unread, cutlass::arch::ClusterTransactionBarrier& full,
                                               const At& at) {
    if constexpr (Config::kZeroFillRows) {
      const unsigned phase = shared.zero_fill_phase[warp];
      wait_together(shared.zero_fill, phase);
      if (lane == 0) shared.zero_fill_phase[warp] = phase ^ 1;
    } else {
      wait_together(shared.zero_fill, zero_fill_phase_);
      zero_fill_phase_ ^= 1;
    }
#pragma unroll 1
    for (int c = 32 * warp + lane; c < Config::kColumns; c += 32 * kWarps, unread >>= 1)
      if (unread & 1)
        for (int d = 0; d < Config::kHeadDim; d += 8) *reinterpret_cast<uint4*>(at(c, d)) = make_uint4(0, 0, 0, 0);
    cutlass::arch::fence_view_async_shared();
    sync_producers();
    if (warp == 0 && lane == 0) arrive(full);
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
