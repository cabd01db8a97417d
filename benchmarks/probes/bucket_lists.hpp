// Candidate lists without solves: the threshold comes from maxima of disjoint groups of keys ("buckets"), kept in
// registers. They are a subset of the keys, so their threshold is at or below that of all keys; nothing is read back.
// A first sweep over every kFirst-th tile (1: all, 0: none) may fill 32 buckets a row; the sweep itself keeps 16.
#pragma once

#include "observers.hpp"

constexpr int kListSlots = 128;  ///< records a thread and row (or a thread, where rows share records)
constexpr size_t kListTile = size_t(kListSlots) * 128 * 32;  ///< bytes of 64 rows

/// Raises cut by steps of Newton's from below on a quad's buckets; stays below their root by rounding.
template <int kBuckets>
DEV void raise(float (&cut)[2], const float (&bucket)[2][kBuckets], float width, int steps) {
  float at[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = bucket[r][0];
#pragma unroll
    for (int i = 1; i < kBuckets; ++i) top = fmaxf(top, bucket[r][i]);
    at[r] = fmaxf(cut[r], quad_max(top) - width);
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    float f2[2] = {0, 0}, f1[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < kBuckets; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = fmaxf(bucket[r][i] - at[r], 0.0f);
        f2[r] = fmaf(x, x, f2[r]), f1[r] += x;
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float a = quad_sum(f2[r]), b = quad_sum(f1[r]);
      if (b > 0) at[r] += fmaxf(__fdividef(a - width * sqrtf(a), b), 0.0f);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) cut[r] = fmaxf(cut[r], at[r] - 1e-6f * (fabsf(at[r]) + width));
}

/// 4 kBuckets a row: what a first sweep leaves.
template <int kBuckets>
struct Buckets {
  float most[2][kBuckets];
  DEV void clear() {
#pragma unroll
    for (int i = 0; i < 2 * kBuckets; ++i) most[i / kBuckets][i % kBuckets] = -FLT_MAX;
  }
  /// Negative maxima are lost to the initial value, which only loosens the bound.
  DEV void tile(const float (&s)[64]) {
#pragma unroll
    for (int n = 0; n < 16; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        most[r][n % kBuckets] = max3<true>(most[r][n % kBuckets], s[4 * n + 2 * r], s[4 * n + 2 * r + 1]);
  }
};

template <int kBuckets>
struct BucketSweep {
  static constexpr int kBytes = 0, kFirst = 0;
  static constexpr const char* kName = kBuckets == 16 ? "buckets alone, 64 a row" : "buckets alone, 32 a row";
  Buckets<kBuckets> buckets;
  float cut[2], width;
  DEV BucketSweep(const Observed& o, uint32_t, Row) : width(1 / o.factor) {}
  DEV void start(size_t) {
    buckets.clear();
    cut[0] = cut[1] = -FLT_MAX;
  }
  DEV void tile(float (&s)[64], int) { buckets.tile(s); }
  DEV void end(const Observed& o, Row at, size_t row, int rows_left, int) {
    raise(cut, buckets.most, width, 6);
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (at.lane % 4 == 0 && rows_left > 8 * r) o.rows[row + 8 * r] = make_float4(cut[r], 0, 0, 0);
  }
};

/// After a first sweep over all keys, one bit for each pair of columns with a score above the cut, nothing else.
struct Masks {
  static constexpr int kBytes = 0, kFirst = 1;
  static constexpr const char* kName = "2 sweeps, masks";
  Buckets<8> buckets;
  float cut[2], width;
  int bits[2];
  uint32_t* words;
  const Observed& o;
  int thread;
  DEV Masks(const Observed& observed, uint32_t, Row at) : o(observed) {
    width = 1 / o.factor;
    thread = at.warp * 32 + at.lane;
  }
  DEV void start(size_t) { buckets.clear(); }
  DEV void first(float (&s)[64]) { buckets.tile(s); }
  DEV void between(size_t row) {
    cut[0] = cut[1] = -FLT_MAX;
    bits[0] = bits[1] = 0;
    words = reinterpret_cast<uint32_t*>(o.records) + (row >> 6) * (o.n / 128) * 128 + thread;
    raise(cut, buckets.most, width, 6);
  }
  DEV void tile(float (&s)[64], int column) {
    uint32_t below[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < 16; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int a = __float_as_int(s[4 * n + 2 * r] - cut[r]), b = __float_as_int(s[4 * n + 2 * r + 1] - cut[r]);
        below[r] = __funnelshift_l(a & b, below[r], 1);
      }
    const uint32_t word = ~(below[0] | below[1] << 16);
    words[(column >> 7) * 128] = word;
    bits[0] += __popc(word & 0xffff), bits[1] += __popc(word >> 16);
  }
  DEV void end(const Observed&, Row at, size_t row, int rows_left, int) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float found = quad_sum(float(bits[r]));
      if (at.lane % 4 == 0 && rows_left > 8 * r) o.rows[row + 8 * r] = make_float4(cut[r], found, found, 0);
    }
  }
};

/// kSlots 0: records go to global memory at once. Else to lists in shared memory, kSlots a thread and row; when one is
/// full, and at the end, what a newer cut leaves of them goes to global memory.
/// kBoth: one record holds the pairs of both rows of a thread.
template <int kFirst_, int kSlots, bool kBoth>
struct Lists {
  static_assert(!kBoth || kSlots == 0);
  static_assert(kSlots % 4 == 0 && kSlots != 4);
  static constexpr int kFirst = kFirst_;
  static constexpr const char* kName = kFirst == 1 ? (kSlots  ? "lists: 2 sweeps, shared"
                                                      : kBoth ? "lists: 2 sweeps, both rows"
                                                              : "lists: 2 sweeps")
                                       : kFirst    ? (kSlots  ? "lists: 1/8 first, shared"
                                                      : kBoth ? "lists: 1/8 first, both rows"
                                                              : "lists: 1/8 first")
                                       : kSlots    ? "lists: shared"
                                       : kBoth     ? "lists: both rows"
                                                   : "lists: plain";
  static constexpr uint32_t kSlot = 128 * 8, kPlane = kSlots * kSlot;
  static constexpr int kBytes = 3 * kPlane;
  static constexpr uint32_t kStride = kBoth ? 128 * 32 : 128 * 16, kRow = kListSlots * 128 * 16;
  static constexpr uint32_t kFull = (kListSlots - 16) * kStride;
  static constexpr int kRows = kBoth ? 1 : 2;
  const Observed& o;
  Buckets<8> buckets;
  float cut[2], width;
  int hits, next, thread;
  uint32_t lists, ptr[2], low[2], high, low0, overflow, tile_number;

  DEV Lists(const Observed& observed, uint32_t room, Row at) : o(observed) {
    thread = at.warp * 32 + at.lane;
    lists = room + thread * 8;
    width = 1 / o.factor;
  }
  DEV void start(size_t row) {
    buckets.clear();
    if (!kFirst) begin(row);
  }
  DEV void first(float (&s)[64]) { buckets.tile(s); }
  DEV void between(size_t row) {
    begin(row);
    raise(cut, buckets.most, width, 6);
    buckets.clear();
  }
  /// Of the sweep itself: a bucket is a thread's share of a group of 32 columns.
  DEV void raise_again() {
    float bucket[2][4];
#pragma unroll
    for (int i = 0; i < 8; ++i) bucket[i / 4][i % 4] = buckets.most[i / 4][i % 4];
    raise(cut, bucket, width, 3);
  }
  DEV void begin(size_t row) {
    tile_number = uint32_t(row >> 6);
    const uint64_t at = reinterpret_cast<uint64_t>(o.records) + tile_number * kListTile + thread * (kBoth ? 32 : 16);
    high = uint32_t(at >> 32), low0 = uint32_t(at);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      low[r] = low0 + r * kRow;
      ptr[r] = lists;
      cut[r] = -FLT_MAX;
    }
    hits = overflow = 0;
    next = 1;
  }

  DEV void write2(uint32_t to, float a, float b, int column) {
    asm volatile(
        "{\n.reg .b64 p;\nmov.b64 p, {%0, %1};\nst.global.v2.f32 [p], {%2, %3};\nst.global.b32 [p+8], %4;\n}\n" ::"r"(
            to),
        "r"(high), "f"(a), "f"(b), "r"(column)
        : "memory");
  }
  DEV void write4(uint32_t to, const float* s, int column) {
    asm volatile(
        "{\n.reg .b64 p;\nmov.b64 p, {%0, %1};\nst.global.v4.f32 [p], {%2, %3, %4, %5};\nst.global.b32 [p+16], "
        "%6;\n}\n" ::"r"(to),
        "r"(high), "f"(s[0]), "f"(s[1]), "f"(s[2]), "f"(s[3]), "r"(column)
        : "memory");
  }
  /// What is above the cut by now goes to global memory.
  DEV void flush() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll 1
      for (uint32_t at = lists; at < ptr[r]; at += 4 * kSlot) {
        float2 v[4];
        int column[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          v[i] = get2(at + i * kSlot + r * kPlane);
          column[i] = get1(at + i * kSlot + 2 * kPlane + 4 * r);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (at + i * kSlot < ptr[r] && !(v[i].x <= cut[r] && v[i].y <= cut[r])) {
            write2(low[r], v[i].x, v[i].y, column[i]);
            low[r] += kStride;
          }
      }
      ptr[r] = lists;
    }
    __syncwarp();
  }
  DEV void keep_in_bounds() {
    if (__any_sync(~0u, max(low[0] - low0, kBoth ? 0 : low[1] - low0 - kRow) > kFull)) {
      low[0] = low0, low[1] = low0 + kRow;
      overflow = 1;
    }
  }
  DEV void make_room() {
    if constexpr (kSlots > 0) {
      if (!__any_sync(~0u, max(ptr[0], ptr[1]) > lists + (kSlots - 4) * kSlot)) return;
      if (kFirst != 1) raise_again();
      flush();
      keep_in_bounds();
    }
  }
  DEV void tile(float (&s)[64], int column) {
    float top[4][2], best[2];
    if (__any_sync(~0u, fminf(cut[0], cut[1]) < 0))
      group_tops<false>(s, top, best);
    else
      group_tops<true>(s, top, best);
    if (!__any_sync(~0u, best[0] > cut[0] || best[1] > cut[1])) return;
    if constexpr (kFirst != 1) {
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int g = 0; g < 4; ++g) buckets.most[r][g] = fmaxf(buckets.most[r][g], top[g][r]);
      if (++hits == next) {
        next += max(1, hits >> 1);
        raise_again();
      }
    }
    if constexpr (kSlots == 0) keep_in_bounds();
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      if (!__any_sync(~0u, top[g][0] > cut[0] || top[g][1] > cut[1])) continue;
      make_room();
#pragma unroll
      for (int n = 4 * g; n < 4 * g + 4; ++n)
        if constexpr (kBoth) {
          const float* v = s + 4 * n;
          if (!(v[0] <= cut[0] && v[1] <= cut[0] && v[2] <= cut[1] && v[3] <= cut[1])) {
            write4(low[0], v, column + 8 * n);
            low[0] += kStride;
          }
        } else {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const float a = s[4 * n + 2 * r], b = s[4 * n + 2 * r + 1];
            if (!(a <= cut[r] && b <= cut[r])) {
              if constexpr (kSlots == 0) {
                write2(low[r], a, b, column + 8 * n);
                low[r] += kStride;
              } else {
                put2(ptr[r] + r * kPlane, a, b);
                put1(ptr[r] + 2 * kPlane + 4 * r, column + 8 * n);
                ptr[r] += kSlot;
              }
            }
          }
        }
    }
  }
  DEV void end(const Observed&, Row at, size_t row, int rows_left, int) {
    if (kFirst != 1) raise_again();
    if constexpr (kSlots > 0) flush();
    const uint32_t a = (low[0] - low0) / kStride, b = kBoth ? a : (low[1] - low0 - kRow) / kStride;
    o.counts[size_t(tile_number) * 128 + thread] = a | b << 8 | overflow << 16;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (at.lane % 4 == 0 && rows_left > 8 * r) o.rows[row + 8 * r] = make_float4(cut[r], 0, 0, 0);
  }
};

/// Threshold and O from the lists that Lists left: 8 lanes a row of D 64.
template <bool kBoth>
__global__ void __launch_bounds__(256) finish(const __grid_constant__ Observed o) {
  constexpr int kKept = 128;
  __shared__ float2 kept[32][kKept];
  const int lane = threadIdx.x & 7, q = lane & 3, mine = threadIdx.x >> 3, shift = threadIdx.x & 24;
  const size_t row = size_t(blockIdx.x) * 32 + mine, tile = row >> 6;
  const int in = int(row & 63), r = in >> 3 & 1, thread = (in >> 4) * 32 + (in & 7) * 4 + q;
  const uint32_t count = o.counts[tile * 128 + thread];
  const int n = int(count >> (8 * r) & 255);
  const uint8_t* from =
      o.records + tile * kListTile + (kBoth ? thread * 32 + r * 8 : thread * 16 + size_t(r) * kListSlots * 128 * 16);
  float cut = o.rows[row].x;
  const float width = 1 / o.factor;
  int entries = 0;
  const auto put = [&](bool keep, float v, int column) {
    const uint32_t votes = __ballot_sync(~0u, keep) >> shift & 255;
    const int to = entries + __popc(votes & ((1u << lane) - 1));
    if (keep && to < kKept) kept[mine][to] = make_float2(v, __int_as_float(column));
    entries = min(entries + __popc(votes), kKept);
  };
  const int trips = (int(__reduce_max_sync(~0u, unsigned(n))) + 1) >> 1;
#pragma unroll 2
  for (int t = 0; t < trips; ++t) {
    const int slot = 2 * t + (lane >> 2);
    float2 v = make_float2(-FLT_MAX, -FLT_MAX);
    int column = 0;
    if (slot < n) {
      const uint8_t* at = from + size_t(slot) * (kBoth ? 4096 : 2048);
      v = __ldcs(reinterpret_cast<const float2*>(at));
      column = __ldcs(reinterpret_cast<const int*>(at - (kBoth ? r * 8 : 0) + (kBoth ? 16 : 8)));
    }
    put(v.x > cut, v.x, column);
    put(v.y > cut, v.y, column + 1);
  }
  __syncwarp();
  const auto sum = [](float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    v += __shfl_xor_sync(~0u, v, 2);
    return v + __shfl_xor_sync(~0u, v, 4);
  };
#pragma unroll 1
  for (int step = 0; step < 12; ++step) {
    float f2 = 0, f1 = 0;
    for (int i = lane; i < entries; i += 8) {
      const float x = fmaxf(kept[mine][i].x - cut, 0.0f);
      f2 = fmaf(x, x, f2), f1 += x;
    }
    f2 = sum(f2), f1 = sum(f1);
    const float move = f1 > 0 ? __fdividef(f2 - width * sqrtf(f2), f1) : 0.0f;
    cut += move;
    if (!__any_sync(~0u, fabsf(move) > 1e-6f * fabsf(cut))) break;
  }
  const int before = entries;
  entries = 0;
  const int again = (int(__reduce_max_sync(~0u, unsigned(before))) + 7) >> 3;
  for (int t = 0; t < again; ++t) {
    const int i = 8 * t + lane;
    const float2 v = i < before ? kept[mine][i] : make_float2(-FLT_MAX, 0.0f);
    __syncwarp();
    put(v.x > cut, v.x, __float_as_int(v.y));
  }
  __syncwarp();
  const uint4* v = o.v + (row - row % o.n) * 8 + lane;
  float acc[8] = {};
#pragma unroll 4
  for (int e = 0; e < entries; ++e) {
    const float2 entry = kept[mine][e];
    const float base = (entry.x - cut) * o.factor, p = base * base;
    float x[8];
    probe::unpack(__ldg(v + uint32_t(__float_as_int(entry.y)) * 8), x);
#pragma unroll
    for (int d = 0; d < 8; ++d) acc[d] = fmaf(p, x[d], acc[d]);
  }
  o.o[row * 8 + lane] = probe::pack(acc);
  int records = n, over = int(count >> 16) | (before == kKept);
#pragma unroll
  for (int i = 1; i < 4; i *= 2) {
    records += __shfl_xor_sync(~0u, records, i);
    over |= __shfl_xor_sync(~0u, over, i);
  }
  if (lane == 0) o.rows[row] = make_float4(cut, float(entries), float(records), float(over));
}
