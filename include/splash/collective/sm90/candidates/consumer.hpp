// Hopper consumers that find the candidates of each row: S = Q K^T alone, twice.
//
// The first sweep keeps maxima of buckets (maxima.hpp), of which a normalizer finds a cut that no key at or below has
// weight, and the maximum of every tile. The second one looks at the tiles that have anything above the cut, forms a
// bit a score, and writes the keys whose bit is set. Nothing is read back but the tiles' maxima, and no warp waits for
// another one within a sweep.
#pragma once

#include "splash/collective/outputs.hpp"
#include "splash/collective/sm90/candidates/config.hpp"
#include "splash/collective/sm90/candidates/maxima.hpp"
#include "splash/collective/sm90/consumer.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

/// Where the rows of a work tile and its keys lie.
template <class Element>
struct CandidatesOutput {
  CandidateLists lists;
  OutputForward<Element> rows;  ///< locates rows; it has no tensors
  uint32_t* tile_maxima;        ///< (blocks of threads, consumer groups, marks, 128)
  int marks;                    ///< tuning::kTileMarks at most
};

template <class Config>
struct ConsumerCandidatesSm90 : ConsumerSm90<Config> {
  using Base = ConsumerSm90<Config>;
  using Base::group, Base::release, Base::shared, Base::thread;
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;
  using Rows = typename Normalizer::template Rows<float, kFragmentRows>;

  static_assert(normalizers::kListsCandidates<Normalizer>, "only a normalizer with kCandidates has lists of them");
  static_assert(patterns::hooks_are_spelled_right<typename Config::Pattern>());

  static constexpr int kVoters = 128 * Config::kConsumers;
  static constexpr int kMostSteps = 6;  ///< of the cut; a step more would move it by little

  struct Params {
    Normalizer normalizer;
    float sign;  ///< of the scale; raw scores are multiplied by it where it is not 1
    CandidatesOutput<Element> output;
  };

  const Params& params;
  const Geometry& geometry;
  const int log2_marked;
  int sweeps_ = 0;

  __device__ __forceinline__ ConsumerCandidatesSm90(const Params& params, const Geometry& geometry, int log2_marked,
                                                    typename Config::SharedStorage& shared, int group, int thread)
      : Base(shared, group, thread), params(params), geometry(geometry), log2_marked(log2_marked) {}

  /// Of a piece that has tiles.
  __device__ __forceinline__ void consume(int query_buffer, const WorkTile& work) {
    Tensor sQ = make_tensor(make_smem_ptr(shared.rows.begin()), typename Config::LayoutRowTiles{});
    Tensor sK = make_tensor(make_smem_ptr(shared.first.begin()), typename Config::LayoutFirst{});
    typename Config::MmaScores mma_scores;
    auto thread_scores = mma_scores.get_thread_slice(thread);
    Tensor tSrQ =
        thread_scores.partition_fragment_A(sQ(_, _, query_buffer * Config::kConsumers + group));  // (1, 1, D / 16)
    Tensor tSrK = thread_scores.partition_fragment_B(sK);                                 // (1, 1, D / 16, stage)
    auto scores = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kColumns>>{});  // ((2, 2, keys / 8), 1, 1)

    MaximaSm90 maxima;
    maxima.clear();
    Found found;
    float cut[kFragmentRows];
    Sweep sweep = Sweep::integers;
    // One loop for all sweeps: products in two places would take accumulators of their own.
#pragma unroll 1
    for (;;) {
#pragma unroll 1
      for (Note note; next(note, sweep);) {
        Base::multiply(mma_scores, tSrQ, tSrK(_, _, _, first_.slot()), scores, true);
        warpgroup_commit_batch();
        warpgroup_wait<0>();
        warpgroup_fence_operand(scores);
        const int begin = shared.first_column[first_.slot()];
        release(shared.first_empty[first_.slot()]);
        first_.advance();
        if (params.sign != 1.0f)
          for (int e = 0; e < size(scores); ++e) scores(e) *= params.sign;
        if (note.masked) {
          if (note.state == Config::kPartial) mask(scores, -math::kInfinity<float>);
          release_mask();
        }
        if (sweep == Sweep::list) {
          list(work, begin, scores, cut, found);
        } else {
          float top[kFragmentRows];
          if (sweep == Sweep::integers)
            maxima.template observe<true>(scores, top);
          else
            maxima.template observe<false>(scores, top);
          keep(begin / Config::kColumns >> log2_marked, top, sweep == Sweep::integers);
        }
        if (note.last) break;
      }
      if (sweep == Sweep::list) break;
      const int again = between(work, maxima, cut, sweep);
      if (again == 0) break;
      if (again & kAllTiles) {
        sweep = Sweep::floats;
        maxima.clear();
        continue;
      }
      sweep = Sweep::list;
      begin_lists(work, cut, found);
    }
    end(work, found, sweep == Sweep::list);
  }

 private:
  using Base::first_, Base::mask, Base::mask_, Base::read_note, Base::release_mask;
  using typename Base::Note;

  enum class Sweep { integers, floats, list };

  /// What a thread found in its quarter of two rows.
  struct Found {
    uint32_t* to[kFragmentRows];
    int count[kFragmentRows] = {0, 0};
  };

  /// Whether the piece has this row.
  __device__ __forceinline__ bool real(const WorkTile& work, int r) const {
    return work.row_begin + 64 * group + accumulator_row(thread, r) < work.frame.num_queries << geometry.log2_pack;
  }

  __device__ __forceinline__ uint32_t& maxima_of(int mark) const {
    int at = group;
    forget(at);
    const uint32_t first = (blockIdx.x * Config::kConsumers + at) * params.output.marks;
    return params.output.tile_maxima[(first + mark) * 128 + thread];
  }

  /// Lets tiles pass that have nothing for this group; false where the sweep ends with them.
  __device__ __forceinline__ bool next(Note& note, Sweep sweep) {
    for (;;) {
      if (read_note(note)) {
        if (sweep != Sweep::list) return true;
        const int own = shared.first_column[first_.slot()] / Config::kColumns >> log2_marked;
        if (shared.marks[group][own >> 5] >> (own & 31) & 1) return true;
      }
      release(shared.first_empty[first_.slot()]);
      first_.advance();
      if (note.masked) release_mask();
      if (note.last) return false;
    }
  }

  /// Notes the maxima of a tile, or of those before it that share its mark.
  __device__ __forceinline__ void keep(int mark, float (&top)[kFragmentRows], bool integers) {
    uint32_t& word = maxima_of(mark);
    uint32_t& visited = shared.visited[group][mark >> 5];
    if (log2_marked && visited >> (mark & 31) & 1) {
      const uint32_t before = word;
      top[0] = integers ? max3_seen(top[0], low_of(before), low_of(before)) : max_with_nan(top[0], low_of(before));
      top[1] = integers ? max3_seen(top[1], high_of(before), high_of(before)) : max_with_nan(top[1], high_of(before));
    }
    word = pack_upwards(top[0], top[1]);
    if (log2_marked) __syncwarp();
    if (thread == 0) atomicOr(&visited, 1u << (mark & 31));
  }

  /// Ends a sweep of maxima: finds the cut, marks tiles, and asks all consumers and the producers what comes next.
  __device__ __forceinline__ int between(const WorkTile& work, const MaximaSm90& maxima, float (&cut)[kFragmentRows],
                                         Sweep sweep) {
    const Normalizer& n = params.normalizer;
    const QuadReduce reduce;
    const BucketFragment fragment{maxima.buckets};
    Rows rows;
#pragma unroll 1
    for (int step = 0; step < kMostSteps; ++step) {
      rows.observe(n, fragment);
      if (!__any_sync(~0u, rows.refine(n, reduce))) break;
    }
    bool unseen = false, negative = false;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      float most = maxima.buckets[r][0];
      CUTE_UNROLL
      for (int b = 1; b < kBuckets; ++b) most = max_with_nan(most, maxima.buckets[r][b]);
      most = reduce.max(most);
      const bool none = most == -math::kInfinity<float> || !real(work, r);
      unseen |= none && real(work, r);
      const float bound = rows.cut(n, r);
      // By what the products of two kernels may differ.
      cut[r] = none ? math::kInfinity<float> : bound - fabsf(most - bound) * 1e-5f - fabsf(most) * 1e-6f;
      negative |= !none && cut[r] < 0;
    }
    int wish = sweep == Sweep::integers && __any_sync(~0u, unseen) ? kAllTiles : 0;
    cutlass::arch::NamedBarrier::sync(128, kStore + group);  // what the group's first thread noted is there
    // Integers see no negative score: every tile may hold one above a negative cut.
    const bool all = sweep == Sweep::integers && __any_sync(~0u, negative);
    bool any = false;
#pragma unroll 1
    for (int w = 0; w < Config::kMarkWords; ++w) {
      const uint32_t visited = shared.visited[group][w];
      uint32_t marks = all ? visited : 0;
#pragma unroll 1
      for (int first = 0; first < 32 && !all; first += 8) {
        if (!(visited >> first & 0xff)) continue;
        uint32_t packed[8];
        CUTE_UNROLL
        for (int i = 0; i < 8; ++i) packed[i] = visited >> (first + i) & 1 ? maxima_of(32 * w + first + i) : 0;
        CUTE_UNROLL
        for (int i = 0; i < 8; ++i)
          if (__any_sync(~0u, !(low_of(packed[i]) <= cut[0] && high_of(packed[i]) <= cut[1])))
            marks |= 1u << (first + i);
      }
      marks &= visited;
      if (marks && (thread & 31) == 0) atomicOr(&shared.marks[group][w], marks);
      any |= marks != 0;
    }
    if (any) wish |= kMarkedTiles;
    return vote(wish);
  }

  /// All consumers and the producers hear of what any warp wants.
  __device__ __forceinline__ int vote(int wish) {
    const int slot = sweeps_++ % 3;
    if (wish && (thread & 31) == 0) atomicOr(&shared.votes[slot], wish);
    cutlass::arch::NamedBarrier::sync(kVoters, kConsumersOnly);
    if (group == 0 && thread == 0) arrive(shared.swept);
    const int again = __shfl_sync(~0u, (thread & 31) == 0 ? shared.votes[slot] : 0, 0);
    if (again & kAllTiles) {
      // The next sweep marks anew. All have read the marks' words that they wrote; nobody else has.
      __syncwarp();
      cutlass::arch::NamedBarrier::sync(128, kStore + group);
      clear_marks();
      return kAllTiles;
    }
    return again;
  }

  __device__ __forceinline__ void clear_marks() {
    if (thread < Config::kMarkWords) shared.marks[group][thread] = 0;
    if (thread == 0) {
      CUTE_UNROLL
      for (int w = 0; w < Config::kMarkWords; ++w) shared.visited[group][w] = 0;
    }
    cutlass::arch::NamedBarrier::sync(128, kStore + group);
  }

  __device__ __forceinline__ int64_t row_of(const WorkTile& work, int r) const {
    const auto& rows = params.output.rows;
    return rows.statistic_at(
        rows.locate(work, geometry.packed_sequences(), work.row_begin + 64 * group + accumulator_row(thread, r)));
  }

  /// Rows of a NaN cut go to whoever needs no lists; those outside of the problem nowhere.
  __device__ __forceinline__ void begin_lists(const WorkTile& work, const float (&cut)[kFragmentRows],
                                              Found& found) const {
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      found.to[r] =
          params.output.lists.keys + candidate_place(thread & 3, 0) * params.output.lists.rows + row_of(work, r);
      found.count[r] = real(work, r) && cut[r] == cut[r] ? 0 : kCandidatesAPair + 1;
    }
  }

  template <class Scores>
  __device__ __forceinline__ void list(const WorkTile& work, int begin, const Scores& scores,
                                       const float (&cut)[kFragmentRows], Found& found) const {
    constexpr int kEach = decltype(size(scores))::value / kFragmentRows;
    // Bit 31 - c of a row: the sign of score - cut, which a NaN has not.
    uint32_t bits[kFragmentRows] = {};
    CUTE_UNROLL
    for (int c = 0; c < kEach; ++c) {
      CUTE_UNROLL
      for (int r = 0; r < kFragmentRows; ++r)
        bits[r] = __funnelshift_l(__float_as_uint(scores(accumulator_register(r, c)) - cut[r]), bits[r], 1);
    }
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      bits[r] = ~bits[r];
      if constexpr (kEach < 32) bits[r] <<= 32 - kEach;
      if (found.count[r] > kCandidatesAPair) bits[r] = 0;
    }
    const int column = begin + 2 * (thread & 3), odd = thread & 1;
#pragma unroll 1
    while (__any_sync(~0u, bits[0] | bits[1])) {
      CUTE_UNROLL
      for (int r = 0; r < kFragmentRows; ++r) {
        if (!bits[r]) continue;
        const int c = __clz(bits[r]);
        bits[r] ^= 0x80000000u >> c;
        if (found.count[r]++ >= kCandidatesAPair) continue;
        *found.to[r] = uint32_t(column_at(geometry, work.keys, column + ((c & ~1) << 2) + (c & 1)));
        found.to[r] += odd ? -params.output.lists.rows : params.output.lists.rows;
      }
    }
  }

  __device__ __forceinline__ void end(const WorkTile& work, const Found& found, bool listed) {
    cutlass::arch::NamedBarrier::sync(128, kStore + group);
    clear_marks();
    if (!listed) return;
    const CandidateLists& lists = params.output.lists;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const bool too_many = found.count[r] + __shfl_xor_sync(~0u, found.count[r], 1) > kCandidatesAPair;
      if (!real(work, r)) continue;
      const int64_t row = row_of(work, r);
      lists.counts[row * kCandidateParts + (thread & 3)] =
          static_cast<unsigned char>(too_many ? kTooMany : unsigned(found.count[r]));
      if (!too_many) continue;
      const int queries = params.output.rows.num_queries;
      const int64_t line = row / queries;
      lists.flags[line * CandidateLists::chunks(queries) + (row - line * queries) / kFlaggedRows] = 1;
      *lists.any_flag = 1;
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
