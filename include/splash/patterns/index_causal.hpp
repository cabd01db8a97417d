// IndexCausal(q_idx, k_idx): k_idx[b, h, column] <= q_idx[b, h, row].
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/patterns/per_head.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// The indices, and the smallest and largest of every 64 of them, by which whole groups are skipped.
struct IndexCausal {
  static constexpr int kGroup = 64;

  struct alignas(8) Range {
    int low, high;
  };

  PerHead q_idx, k_idx;      ///< (B|1, Hq|1, Nq) and (B|1, Hq|1, Nk)
  PerHead q_range, k_range;  ///< (B|1, Hq|1, groups, 2)

  /// tensors: q_idx, k_idx, q_range, k_range, all int32.
  static SPLASH_HD IndexCausal from(const PatternTerm& term) {
    return {PerHead::of(term.tensors[0]), PerHead::of(term.tensors[1]), PerHead::of(term.tensors[2]),
            PerHead::of(term.tensors[3])};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    if (in.positions.cu_queries) return "its indices belong to rows and columns, which packed sequences do not have";
    const int64_t extent[] = {in.q.shape[2], in.k.shape[2]};
    for (int n = 0; n < 2; ++n)
      if (!PerHead::fits(term.tensors[n], in, {extent[n]}) ||
          !PerHead::fits(term.tensors[2 + n], in, {(extent[n] + kGroup - 1) / kGroup, 2}) ||
          reinterpret_cast<uintptr_t>(term.tensors[2 + n].data) % alignof(Range) != 0)
        return "q_idx and k_idx must be contiguous int32 (B|1, Hq|1, Nq) and (B|1, Hq|1, Nk), their ranges (B|1, Hq|1, "
               "ceil(N / 64), 2) at a multiple of 8 bytes";
    return nullptr;
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    return k_idx.at(frame)[column] <= q_idx.at(frame)[row];
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const Range queries = range(ranges(q_range, frame), box.row_begin, box.row_end);
    const Range keys = range(ranges(k_range, frame), box.column_begin, box.column_end);
    if (keys.low > queries.high) return TileState::empty;
    return keys.high <= queries.low ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const Range* keys = ranges(k_range, frame);
    const int largest = range(ranges(q_range, frame), row_begin, row_end).high;
    SPLASH_NO_UNROLL
    for (int n = group_of(column); n * kGroup < frame.num_keys; ++n)
      if (keys[n].low <= largest) return most(n * kGroup, column);
    return kEnd;
  }

  /// Exact for one column, for which producers ask row by row.
  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const bool one = column_end - column_begin == 1;
    const int smallest =
        one ? k_idx.at(frame)[column_begin] : range(ranges(k_range, frame), column_begin, column_end).low;
    const Range* queries = ranges(q_range, frame);
    const int32_t* query = q_idx.at(frame);
    SPLASH_NO_UNROLL
    for (int n = group_of(row); n * kGroup < frame.num_queries; ++n) {
      if (queries[n].high < smallest) continue;
      const int begin = most(n * kGroup, row), end = least((n + 1) * kGroup, frame.num_queries);
      if (!one) return begin;
      SPLASH_NO_UNROLL
      for (int r = begin; r < end; ++r)
        if (query[r] >= smallest) return r;
    }
    return kEnd;
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int32_t* keys = k_idx.at(frame) + column;
    const int query = q_idx.at(frame)[row], count = least(frame.num_keys - column, 64);
#if defined(__CUDA_ARCH__)
    // Many rows keep all or nothing of a group; the others compare, four keys a load where these are aligned.
    const Range group = range(ranges(k_range, frame), column, column + count);
    if (group.low > query) return 0;
    if (group.high <= query) return ~uint64_t(0);
    uint32_t half[2] = {0, 0};
    const bool aligned = (reinterpret_cast<uintptr_t>(keys) & 15) == 0;
    SPLASH_NO_UNROLL
    for (int c = 0; c < count; c += 8) {
      uint32_t kept = 0;
      if (aligned && c + 8 <= count) {
        const int4 a = *reinterpret_cast<const int4*>(keys + c), b = *reinterpret_cast<const int4*>(keys + c + 4);
        const int key[] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        SPLASH_UNROLL
        for (int e = 0; e < 8; ++e) kept |= key[e] <= query ? 1u << e : 0u;
      } else {
        SPLASH_NO_UNROLL
        for (int e = 0; e < 8 && c + e < count; ++e) kept |= uint32_t(keys[c + e] <= query) << e;
      }
      half[0] = funnel(half[0], half[1], 8);
      half[1] = half[1] >> 8 | kept << 24;
    }
    return (half[0] | uint64_t(half[1]) << 32) >> (64 - ((count + 7) & ~7));
#else
    uint64_t kept = 0;
    // Compilers make vectors of this loop; the product then gathers the low bits of 8 bytes in the highest byte.
    unsigned char kept_bytes[64] = {};
    for (int c = 0; c < count; ++c) kept_bytes[c] = keys[c] <= query;
    for (int c = 0; c < 64; c += 8) {
      uint64_t eight;
      __builtin_memcpy(&eight, kept_bytes + c, 8);
      kept |= (eight * 0x0102040810204080u >> 56) << c;
    }
    return kept;
#endif
  }

 private:
  static SPLASH_HD int group_of(int index) { return int(uint32_t(index) / uint32_t(kGroup)); }

  static SPLASH_HD const Range* ranges(const PerHead& tensor, const Frame& frame) {
    return reinterpret_cast<const Range*>(tensor.at(frame));
  }

  /// Of all groups that [begin, end) reaches into; the first and the last are under way together.
  static SPLASH_HD Range range(const Range* ranges, int begin, int end) {
    int n = group_of(begin);
    const int final = most(group_of(end - 1), n);
    const Range first = ranges[n], last = ranges[final];
    Range all{least(first.low, last.low), most(first.high, last.high)};
    SPLASH_NO_UNROLL
    for (++n; n < final; ++n) all = {least(all.low, ranges[n].low), most(all.high, ranges[n].high)};
    return all;
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
