// What looks at a tile of scores in the QK sweep, from nothing to the whole of R1 (candidate lists, solve, gather).
// A thread has rows lane / 4 and lane / 4 + 8 of its warp's 16, columns 8 n + 2 (lane % 4) + e of the tile's 128:
// score (r, n, e) is s[4 n + 2 r + e]. `column` is the number of column (0, 0).
#pragma once

#include <cfloat>

#include "wgmma.hpp"

struct Row {
  int block, group, warp, lane;  ///< of the grid, of the thread block, of the group, of the warp
};

struct Observed {
  const uint4* v;     ///< (heads, n, d)
  uint4* o;           ///< (heads, n, d)
  float4* rows;       ///< (heads, n): what an observer found
  float2* scratch;    ///< old lists beyond shared memory
  float cut, factor;  ///< fixed threshold of raw scores; z = factor * score
  uint8_t* records;   ///< lists in global memory, kTileBytes a tile of 64 rows
  uint32_t* counts;   ///< of each thread's lists of a tile of 64 rows
  float* given;       ///< (heads, n): thresholds of an earlier run
  int n;
};

DEV float score(const float (&s)[64], int r, int i) { return s[4 * (i >> 1) + 2 * r + (i & 1)]; }
DEV float quad_sum(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}
DEV float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
/// Right where the result is not negative: all negative numbers are below all others as integers, too.
DEV float max3_positive(float a, float b, float c) {
  return __int_as_float(__vimax3_s32(__float_as_int(a), __float_as_int(b), __float_as_int(c)));
}
template <bool kInteger>
DEV float max3(float a, float b, float c) {
  return kInteger ? max3_positive(a, b, c) : fmaxf(fmaxf(a, b), c);
}

/// One score of either half of the tile: products that nothing reads are not in the machine code.
struct Nothing {
  static constexpr int kBytes = 0, kFirst = 0;
  static constexpr const char* kName = "nothing";
  uint32_t bits;
  DEV Nothing(const Observed&, uint32_t, Row) {}
  DEV void start(size_t) { bits = 0; }
  DEV void tile(float (&s)[64], int) { bits ^= __float_as_uint(s[0]) ^ __float_as_uint(s[63]); }
  DEV void end(const Observed& o, Row at, size_t row, int rows_left, int) {
    if (at.lane % 4 == 0 && rows_left > 0) o.rows[row] = make_float4(__uint_as_float(bits), 0, 0, 0);
  }
};

template <bool kInteger>
struct Maximum {
  static constexpr int kBytes = 0, kFirst = 0;
  static constexpr const char* kName = kInteger ? "max, VIMNMX3" : "max, FMNMX";
  float best[2][4];
  DEV Maximum(const Observed&, uint32_t, Row) {}
  DEV void start(size_t) {
#pragma unroll
    for (int i = 0; i < 8; ++i) best[i / 4][i % 4] = -FLT_MAX;
  }
  DEV void tile(float (&s)[64], int) {
#pragma unroll
    for (int i = 0; i < 32; i += 2)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& m = best[r][i / 2 % 4];
        m = max3<kInteger>(m, score(s, r, i), score(s, r, i + 1));
      }
  }
  DEV float found(int r) { return quad_max(fmaxf(fmaxf(best[r][0], best[r][1]), fmaxf(best[r][2], best[r][3]))); }
  DEV void end(const Observed& o, Row at, size_t row, int rows_left, int) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float m = found(r);
      if (at.lane % 4 == 0 && rows_left > 8 * r) o.rows[row + 8 * r] = make_float4(m, 0, 0, 0);
    }
  }
};

struct MaximumAndCount {
  static constexpr int kBytes = 0, kFirst = 0;
  static constexpr const char* kName = "max + count above";
  Maximum<true> maximum;
  float cut;
  int count[2];
  DEV MaximumAndCount(const Observed& o, uint32_t lists, Row at) : maximum(o, lists, at), cut(o.cut) {}
  DEV void start(size_t) {
    maximum.start(0);
    count[0] = count[1] = 0;
  }
  DEV void tile(float (&s)[64], int column) {
    maximum.tile(s, column);
#pragma unroll
    for (int i = 0; i < 32; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) count[r] += score(s, r, i) > cut;
  }
  DEV void end(const Observed& o, Row at, size_t row, int rows_left, int) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float m = maximum.found(r), n = quad_sum(float(count[r]));
      if (at.lane % 4 == 0 && rows_left > 8 * r) o.rows[row + 8 * r] = make_float4(m, n, 0, 0);
    }
  }
};

/// Score sweep of R2 at alpha 1.5: sums of (s - cut)+ and its square.
struct Moments {
  static constexpr int kBytes = 0, kFirst = 0;
  static constexpr const char* kName = "moments F2 F1 (R2)";
  float cut, f2[2][2], f1[2][2];
  DEV Moments(const Observed& o, uint32_t, Row) : cut(o.cut) {}
  DEV void start(size_t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) f2[i / 2][i % 2] = f1[i / 2][i % 2] = 0;
  }
  DEV void tile(float (&s)[64], int) {
#pragma unroll
    for (int i = 0; i < 32; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = fmaxf(score(s, r, i) - cut, 0.0f);
        f1[r][i & 1] += x;
        f2[r][i & 1] = fmaf(x, x, f2[r][i & 1]);
      }
  }
  DEV void end(const Observed& o, Row at, size_t row, int rows_left, int) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float a = quad_sum(f2[r][0] + f2[r][1]), b = quad_sum(f1[r][0] + f1[r][1]);
      if (at.lane % 4 == 0 && rows_left > 8 * r) o.rows[row + 8 * r] = make_float4(a, b, 0, 0);
    }
  }
};

/// Maxima of groups of 32 columns, over a thread's 8 of them.
template <bool kInteger>
DEV void group_tops(const float (&s)[64], float (&top)[4][2], float (&best)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      const int i = 8 * g;
      float m = max3<kInteger>(score(s, r, i), score(s, r, i + 1), score(s, r, i + 2));
      m = max3<kInteger>(m, score(s, r, i + 3), score(s, r, i + 4));
      m = max3<kInteger>(m, score(s, r, i + 5), score(s, r, i + 6));
      top[g][r] = max3<kInteger>(m, score(s, r, i + 7), score(s, r, i + 7));
    }
    best[r] = max3<kInteger>(max3<kInteger>(top[0][r], top[1][r], top[2][r]), top[3][r], top[3][r]);
  }
}

/// The fast path of R1 with a cut from the running maximum alone, nothing appended: tiles and groups hit are counted.
struct Detect {
  static constexpr int kBytes = 0, kFirst = 0;
  static constexpr const char* kName = "detect (cut = max - 1)";
  float cut[2], width;
  int groups, tiles;
  DEV Detect(const Observed& o, uint32_t, Row) : width(1 / o.factor) {}
  DEV void start(size_t) {
    cut[0] = cut[1] = -FLT_MAX;
    groups = tiles = 0;
  }
  DEV void tile(float (&s)[64], int) {
    float top[4][2], best[2];
    if (__any_sync(~0u, fminf(cut[0], cut[1]) < 0))
      group_tops<false>(s, top, best);
    else
      group_tops<true>(s, top, best);
    if (!__any_sync(~0u, best[0] > cut[0] || best[1] > cut[1])) return;
    ++tiles;
#pragma unroll
    for (int r = 0; r < 2; ++r) cut[r] = fmaxf(cut[r], quad_max(best[r]) - width);
#pragma unroll
    for (int g = 0; g < 4; ++g) groups += __any_sync(~0u, top[g][0] > cut[0] || top[g][1] > cut[1]);
  }
  DEV void end(const Observed& o, Row at, size_t row, int rows_left, int) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (at.lane % 4 == 0 && rows_left > 8 * r)
        o.rows[row + 8 * r] = make_float4(cut[r] + width, float(tiles), float(groups), 0);
  }
};

DEV void put2(uint32_t at, float a, float b) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(a), "f"(b) : "memory");
}
DEV void put1(uint32_t at, int a) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(a) : "memory"); }
DEV float2 get2(uint32_t at) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at) : "memory");
  return v;
}
DEV int get1(uint32_t at) {
  int v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}

/// R1 at alpha 1.5. Young lists: [plane][slot][thread], pairs of row 0, pairs of row 1, columns of both. Old lists: a
/// row's entries (score, column) dealt out to its quad, kOld slots a lane and row, the rest to 256 a row in scratch.
/// kMode takes parts away or measures them: what does each cost?
enum class Mode { kWhole, kClocked, kNoEnd, kGiven, kGivenAppend };

template <int kYoung, int kOld, int kHeadDim, bool kGather, Mode kMode = Mode::kWhole>
struct Candidates {
  static constexpr uint32_t kSlot = 128 * 8, kPlane = kYoung * kSlot, kOldPlane = kOld * kSlot;
  static constexpr int kBytes = 3 * kPlane + 2 * kOldPlane, kLimit = 256, kFirst = 0;
  static constexpr bool kClocked = kMode == Mode::kClocked, kGiven = kMode >= Mode::kGiven;
  static constexpr const char* kName = kGather                       ? "R1 + gather"
                                       : kClocked                    ? "R1 clocked"
                                       : kMode == Mode::kNoEnd       ? "R1 part: no end"
                                       : kMode == Mode::kGiven       ? "R1 part: tau given"
                                       : kMode == Mode::kGivenAppend ? "R1 part: tau given; appends alone"
                                                                     : "R1";
  const Observed& o;
  uint32_t lists, olds, ptr[2], solves, in_solves;
  float cut[2], width;
  int old[2], appended[2], quad;
  float2* beyond;  ///< of the thread's first row; the other one is 8 rows further

  DEV Candidates(const Observed& observed, uint32_t room, Row at) : o(observed) {
    const int thread = at.warp * 32 + at.lane;
    lists = room + thread * 8;
    olds = lists + 3 * kPlane;
    quad = at.lane & 3;
    width = 1 / o.factor;
    beyond = o.scratch + (size_t(at.block * 4 + at.group) * 64 + at.warp * 16 + (at.lane >> 2)) * kLimit;
  }
  DEV void start(size_t row) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      cut[r] = kGiven ? o.given[row + 8 * r] : -FLT_MAX;
      ptr[r] = lists;
      old[r] = appended[r] = 0;
    }
    solves = in_solves = 0;
  }
  DEV float2 read_old(int r, int i) const {
    if (i < 4 * kOld) return get2(olds + r * kOldPlane + (i >> 2) * kSlot);
    return beyond[r * 8 * kLimit + i];
  }
  DEV void keep(int r, bool kept, float v, int column) {
    const uint32_t votes = __ballot_sync(~0u, kept) >> (threadIdx.x & 28) & 15;
    const int to = old[r] + __popc(votes & ((1 << quad) - 1));
    if (kept && to < 4 * kOld)
      put2(olds + r * kOldPlane + ((to & 3) - quad) * 8 + (to >> 2) * kSlot, v, __int_as_float(column));
    else if (kept && to < kLimit)
      beyond[r * 8 * kLimit + to] = make_float2(v, __int_as_float(column));
    old[r] = min(old[r] + __popc(votes), kLimit);
  }
  DEV void solve(int steps) {
    if constexpr (kMode == Mode::kGivenAppend) {
      ptr[0] = ptr[1] = lists;
      return;
    }
    const uint32_t from = kClocked ? clock() : 0;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      bool moved = false;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float f2 = 0, f1 = 0;
#pragma unroll 2
        for (uint32_t at = lists; at < ptr[r]; at += kSlot) {
          const float2 v = get2(at + r * kPlane);
          const float x = fmaxf(v.x - cut[r], 0.0f), y = fmaxf(v.y - cut[r], 0.0f);
          f2 = fmaf(x, x, f2), f1 += x;
          f2 = fmaf(y, y, f2), f1 += y;
        }
#pragma unroll 2
        for (int i = quad; i < old[r]; i += 4) {
          const float x = fmaxf(read_old(r, i).x - cut[r], 0.0f);
          f2 = fmaf(x, x, f2), f1 += x;
        }
        f2 = quad_sum(f2), f1 = quad_sum(f1);
        const float move = f1 > 0 ? __fdividef(f2 - width * sqrtf(f2), f1) : 0.0f;
        cut[r] += step ? move : fmaxf(move, 0.0f);
        moved |= fabsf(move) > 2e-7f * fabsf(cut[r]);
      }
      if (!__any_sync(~0u, moved)) break;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int before = old[r], mine = int(ptr[r] - lists) / int(kSlot);
      appended[r] += mine;
      old[r] = 0;
      int trips = __reduce_max_sync(~0u, (before + 3) >> 2);
#pragma unroll 1
      for (int t = 0; t < trips; ++t) {
        const int i = 4 * t + quad;
        const float2 v = i < before ? read_old(r, i) : make_float2(-FLT_MAX, 0.0f);
        keep(r, v.x > cut[r], v.x, __float_as_int(v.y));
      }
      trips = __reduce_max_sync(~0u, mine);
#pragma unroll 1
      for (int t = 0; t < trips; ++t) {
        const uint32_t at = lists + t * kSlot;
        const bool have = t < mine;
        const float2 v = have ? get2(at + r * kPlane) : make_float2(-FLT_MAX, -FLT_MAX);
        const int column = have ? get1(at + 2 * kPlane + 4 * r) : 0;
        keep(r, v.x > cut[r], v.x, column);
        keep(r, v.y > cut[r], v.y, column + 1);
      }
      ptr[r] = lists;
    }
    __syncwarp();
    if (kClocked) in_solves += uint32_t(clock()) - from, ++solves;
  }
  DEV void tile(float (&s)[64], int column) {
    float top[4][2], best[2];
    if (__any_sync(~0u, fminf(cut[0], cut[1]) < 0))
      group_tops<false>(s, top, best);
    else
      group_tops<true>(s, top, best);
    if (!__any_sync(~0u, best[0] > cut[0] || best[1] > cut[1])) return;
#pragma unroll
    for (int r = 0; r < 2; ++r) cut[r] = fmaxf(cut[r], quad_max(best[r]) - width);
    const uint32_t full = lists + (kYoung - 4) * kSlot;
    int next = 0;
#pragma unroll 1
    for (;;) {
      bool stopped = false;
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        if (stopped || g < next || !__any_sync(~0u, top[g][0] > cut[0] || top[g][1] > cut[1])) continue;
        if (__any_sync(~0u, max(ptr[0], ptr[1]) > full)) {
          stopped = true;
          next = g;
          continue;
        }
#pragma unroll
        for (int n = 4 * g; n < 4 * g + 4; ++n)
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const float a = s[4 * n + 2 * r], b = s[4 * n + 2 * r + 1];
            if (!(a <= cut[r] && b <= cut[r])) {
              put2(ptr[r] + r * kPlane, a, b);
              put1(ptr[r] + 2 * kPlane + 4 * r, column + 8 * n);
              ptr[r] += kSlot;
            }
          }
      }
      if (!stopped) break;
      solve(1);
    }
  }
  DEV void end(const Observed&, Row at, size_t row, int rows_left, int head_row) {
    const float before = float(in_solves);
    if (kMode != Mode::kNoEnd) solve(24);
    if constexpr (kGather) gather(at, row - (at.lane >> 2), rows_left + (at.lane >> 2), head_row);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int pairs = __reduce_add_sync(~0u, appended[r]);
      if (at.lane % 4 == 0 && rows_left > 8 * r)
        o.rows[row + 8 * r] = kClocked ? make_float4(float(solves) - 1, before, float(in_solves) - before, 0)
                                       : make_float4(cut[r], float(old[r]), float(pairs) / 8, 0);
    }
    __syncwarp();
  }
  /// O of the warp's 16 rows: kHeadDim / 8 lanes a row walk the four cells of its quad. `row`: the warp's first one.
  DEV void gather(Row at, size_t row, int rows_left, int head_row) {
    constexpr int kLanes = kHeadDim / 8, kAtOnce = 32 / kLanes, kRounds = 16 / kAtOnce;
    const int mine = at.lane / kLanes, part = at.lane % kLanes;
    const uint4* v = o.v + size_t(head_row) * kLanes + part;
    const uint32_t warp_olds = olds - at.lane * 8;
    const float2* warp_beyond = beyond - (at.lane >> 2) * kLimit;
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
      const int i = mine * kRounds + round, r = i >> 3, source = (i & 7) * 4;
      const int n0 = __shfl_sync(~0u, old[0], source), n1 = __shfl_sync(~0u, old[1], source);
      const float c0 = __shfl_sync(~0u, cut[0], source), c1 = __shfl_sync(~0u, cut[1], source);
      const int entries = r ? n1 : n0;
      const float base_cut = r ? c1 : c0;
      const uint32_t from = warp_olds + source * 8 + r * kOldPlane;
      float acc[8] = {};
#pragma unroll 4
      for (int e = 0; e < entries; ++e) {
        float2 entry;
        if (e < 4 * kOld)
          entry = get2(from + (e & 3) * 8 + (e >> 2) * kSlot);
        else
          entry = warp_beyond[i * kLimit + e];
        const float base = (entry.x - base_cut) * o.factor, p = base * base;
        float x[8];
        probe::unpack(__ldg(v + uint32_t(__float_as_int(entry.y)) * kLanes), x);
#pragma unroll
        for (int d = 0; d < 8; ++d) acc[d] = fmaf(p, x[d], acc[d]);
      }
      if (i < rows_left) o.o[(row + i) * kLanes + part] = probe::pack(acc);
      __syncwarp();
    }
  }
};
