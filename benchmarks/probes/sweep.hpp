// S = Q K^T by wgmma, K by TMA, no PV, with an observer of the tiles.
#pragma once

#include "observers.hpp"

using bf16 = __nv_bfloat16;

struct Problem {
  const bf16* q;
  uint32_t* counters;  ///< next piece, thread blocks done
  uint64_t* clocks;    ///< cycles and ns of thread block 0
  int heads, n, section;
};

/// kAhead: products of the next tile run while the observer looks at this one (two tiles of accumulators a thread).
template <bool kQRegisters_, int kStageKeys_, int kStages_, int kQSlots_ = 2, bool kAhead_ = false>
struct Shape {
  static constexpr int kD = HEAD_DIM, kGroups = GROUPS, kThreads = 128 * GROUPS + (BLOCKS == 2 ? 32 : 128);
  static constexpr bool kQRegisters = kQRegisters_, kAhead = kAhead_;
  static constexpr int kStageKeys = kStageKeys_, kStages = kStages_, kQSlots = kQSlots_, kParts = 128 / kStageKeys;
  static constexpr int kStageBytes = kStageKeys * kD * 2, kQBytes = kQRegisters ? 0 : GROUPS * 64 * kD * 2;
  // Two thread blocks have one producer warp each and 96 registers a thread throughout: 80, which four producer warps
  // would leave at the start, are too few for wgmma.
  static constexpr int kConsumerRegisters = BLOCKS == 2 ? 96 : GROUPS == 2 ? 232 : GROUPS == 3 ? 160 : 112;
  static constexpr int kProducerRegisters = GROUPS == 2 ? 40 : 32;
  static constexpr int kBytes = kStages * kStageBytes + kQSlots * kQBytes + 16 * kStages + 24 * kQSlots;
};

/// Pieces of 64 GROUPS rows, long ones first within a section of heads whose K fit into L2.
struct Walk {
  int head, row0, tiles, diagonal;
  DEV Walk(const Problem& p, int piece) {
    constexpr int kRows = 64 * GROUPS;
    const int blocks = (p.n + kRows - 1) / kRows, pieces = blocks * p.section;
    const int in = piece % pieces;
    head = piece / pieces * p.section + in % p.section;
    row0 = (blocks - 1 - in / p.section) * kRows;
    tiles = min((row0 + kRows + 127) / 128, p.n / 128);
    diagonal = tiles - row0 / 128;
  }
  /// Tiles of the diagonal, the first keys, the rest downwards.
  /// Steps before 0 are a first sweep over every kFirst-th tile.
  template <int kFirst>
  DEV int place(int t) const {
    return kFirst && t < 0 ? (t + (tiles + kFirst - 1) / max(kFirst, 1)) * kFirst : t;
  }
  DEV int tile(int t) const { return t < diagonal ? tiles - 1 - t : t == diagonal ? 0 : tiles - t; }
};

template <class Shape>
struct Barriers {
  uint32_t at;
  DEV uint32_t full(int stage) const { return at + 8 * stage; }
  DEV uint32_t empty(int stage) const { return at + 8 * (Shape::kStages + stage); }
  DEV uint32_t piece_full(int slot) const { return at + 8 * (2 * Shape::kStages + slot); }
  DEV uint32_t piece_empty(int slot) const { return at + 8 * (2 * Shape::kStages + Shape::kQSlots + slot); }
  DEV uint32_t piece(int slot) const { return at + 8 * (2 * Shape::kStages + 2 * Shape::kQSlots + slot); }
};

template <int kCount>
struct Ring {
  int slot = 0;
  uint32_t phase = 0;
  DEV void step() {
    if (++slot == kCount) slot = 0, phase ^= 1;
  }
};

template <class Shape, class Observer>
__global__ void __launch_bounds__(Shape::kThreads, BLOCKS)
    sweep(const __grid_constant__ CUtensorMap keys, const __grid_constant__ CUtensorMap queries,
          const __grid_constant__ Problem p, const __grid_constant__ Observed observed) {
  constexpr int kD = Shape::kD, kHalves = kD / 64, kSteps = kD / 16;
  extern __shared__ __align__(1024) uint8_t memory[];
  const uint32_t ring = shared_address(memory);
  const uint32_t q_room = ring + Shape::kStages * Shape::kStageBytes;
  const uint32_t lists = q_room + Shape::kQSlots * Shape::kQBytes;
  const Barriers<Shape> bars{lists + GROUPS * Observer::kBytes};
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) barrier_init(bars.full(i), 1), barrier_init(bars.empty(i), 4 * GROUPS);
    for (int i = 0; i < Shape::kQSlots; ++i)
      barrier_init(bars.piece_full(i), 1), barrier_init(bars.piece_empty(i), 4 * GROUPS);
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x == 0 && ring % 1024) __trap();
  Ring<Shape::kStages> stage;
  Ring<Shape::kQSlots> slot;

  const int group = __shfl_sync(~0u, threadIdx.x >> 7, 0);
  if (group == GROUPS) {
    if (BLOCKS == 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Shape::kProducerRegisters));
    if (threadIdx.x != GROUPS * 128) return;
    const int64_t cycles = clock64();
    uint64_t ns, end_ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    const int blocks = (p.n + 64 * GROUPS - 1) / (64 * GROUPS), pieces = blocks * p.heads;
    for (;;) {
      const int claimed = int(atomicAdd(p.counters, 1));
      const int piece = claimed < pieces ? claimed : -1;
      barrier_wait(bars.piece_empty(slot.slot), slot.phase ^ 1);
      put1(bars.piece(slot.slot), piece);
      const Walk walk(p, max(piece, 0));
      const int head_row = walk.head * p.n;
      if (!Shape::kQRegisters && piece >= 0) {
        barrier_expect(bars.piece_full(slot.slot), Shape::kQBytes);
        for (int g = 0; g < GROUPS; ++g)
          for (int h = 0; h < kHalves; ++h)
            tma_load(q_room + slot.slot * Shape::kQBytes + (g * kHalves + h) * 8192, &queries, 64 * h,
                     head_row + walk.row0 + 64 * g, bars.piece_full(slot.slot));
      } else {
        barrier_arrive(bars.piece_full(slot.slot));
      }
      slot.step();
      if (piece < 0) break;
      const auto load = [&](int tile) {
        for (int part = 0; part < Shape::kParts; ++part) {
          barrier_wait(bars.empty(stage.slot), stage.phase ^ 1);
          barrier_expect(bars.full(stage.slot), Shape::kStageBytes);
          for (int h = 0; h < kHalves; ++h)
            tma_load(ring + stage.slot * Shape::kStageBytes + h * Shape::kStageKeys * 128, &keys, 64 * h,
                     head_row + tile * 128 + part * Shape::kStageKeys, bars.full(stage.slot));
          stage.step();
        }
      };
      constexpr int kFirst = Observer::kFirst;
      const int from = kFirst ? (-walk.tiles - kFirst + 1) / kFirst : 0;
      for (int t = from; t < walk.tiles; ++t) load(walk.tile(walk.place<kFirst>(t)));
      if (Shape::kAhead && (walk.tiles - from) % 2) load(0);  // an even number of steps; nothing looks at this one
    }
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(end_ns));
    if (blockIdx.x == 0) p.clocks[0] = clock64() - cycles, p.clocks[1] = end_ns - ns;
    if (atomicAdd(p.counters + 1, 1) == gridDim.x - 1) p.counters[0] = p.counters[1] = 0;
    return;
  }

  if (BLOCKS == 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Shape::kConsumerRegisters));
  const Row at{int(blockIdx.x), group, int(threadIdx.x >> 5) & 3, int(threadIdx.x) & 31};
  const int my_row = group * 64 + at.warp * 16 + at.lane / 4;  // of the piece
  Observer observer(observed, lists + group * Observer::kBytes, at);
  uint32_t q[Shape::kQRegisters ? kSteps : 1][4];
  const auto next_piece = [&] {
    barrier_wait(bars.piece_full(slot.slot), slot.phase);
    __syncwarp();
    const int piece = get1(bars.piece(slot.slot));
    if (Shape::kQRegisters) {
      const Walk walk(p, max(piece, 0));
#pragma unroll
      for (int i = 0; i < (Shape::kQRegisters ? kSteps : 0); ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = min(walk.row0 + my_row + 8 * (j & 1), p.n - 1);
          q[i][j] = __ldg(reinterpret_cast<const uint32_t*>(p.q + (size_t(walk.head) * p.n + row) * kD) + 8 * i +
                          (at.lane & 3) + 4 * (j >> 1));
        }
    }
    return piece;
  };
  const auto release_piece = [&] {
    __syncwarp();
    if (at.lane == 0) barrier_arrive(bars.piece_empty(slot.slot));
    slot.step();
  };
  int piece = next_piece();
#pragma unroll 1
  while (piece >= 0) {
    const Walk walk(p, piece);
    const int group_row = walk.row0 + 64 * group, row = walk.row0 + my_row;
    const uint64_t q_at = descriptor(q_room + slot.slot * Shape::kQBytes + group * kHalves * 8192);
    observer.start(size_t(walk.head) * p.n + min(row, p.n - 9));
    // Products of tile `first`, and whether this group has rows that need it.
    const auto product = [&](int first, float (&s)[64]) {
      const bool needed = group_row < p.n && first <= group_row + 63;
      int stages[Shape::kParts];
      for (int part = 0; part < Shape::kParts; ++part) {
        barrier_wait(bars.full(stage.slot), stage.phase);
        stages[part] = stage.slot;
        stage.step();
      }
      __syncwarp();
      if (needed) {
        products_begin();
#pragma unroll
        for (int part = 0; part < Shape::kParts; ++part) {
          const uint64_t k_at = descriptor(ring + stages[part] * Shape::kStageBytes);
#pragma unroll
          for (int i = 0; i < kSteps; ++i) {
            const uint64_t k = k_at + (i / 4) * (Shape::kStageKeys * 8) + (i % 4) * 2;
            const uint64_t q_i = q_at + (i / 4) * 512 + (i % 4) * 2;
            if constexpr (Shape::kParts == 1 && Shape::kQRegisters) product128(s, q[i], k, i > 0);
            if constexpr (Shape::kParts == 1 && !Shape::kQRegisters) product128(s, q_i, k, i > 0);
            if constexpr (Shape::kParts == 2 && Shape::kQRegisters) product64(s + 32 * part, q[i], k, i > 0);
            if constexpr (Shape::kParts == 2 && !Shape::kQRegisters) product64(s + 32 * part, q_i, k, i > 0);
          }
        }
        products_end();
#pragma unroll
        for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(s[i])::"memory");
      }
      __syncwarp();
      if (at.lane == 0)
        for (int part = 0; part < Shape::kParts; ++part) barrier_arrive(bars.empty(stages[part]));
      if (needed && first + 127 > group_row) {
        const int column = first + 2 * (at.lane & 3);
#pragma unroll
        for (int i = 0; i < 64; ++i)
          if (column + 8 * (i >> 2) + (i & 1) > row + 8 * (i >> 1 & 1)) s[i] = -FLT_MAX;
      }
      return needed;
    };
    constexpr int kFirst = Observer::kFirst;
    int t = kFirst ? (-walk.tiles - kFirst + 1) / kFirst : 0;
    if constexpr (Shape::kAhead) {
      static_assert(Shape::kParts == 1);
      float s[2][64];
      int held[2];
      const auto issue = [&](bool fresh, int& stage_of, float (&to)[64]) {
        if (fresh) {
          barrier_wait(bars.full(stage.slot), stage.phase);
          stage_of = stage.slot;
          stage.step();
        }
        __syncwarp();
        products_begin();
        const uint64_t k_at = descriptor(ring + stage_of * Shape::kStageBytes);
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          const uint64_t k = k_at + (i / 4) * (Shape::kStageKeys * 8) + (i % 4) * 2;
          if constexpr (Shape::kQRegisters) product128(to, q[i], k, i > 0);
          if constexpr (!Shape::kQRegisters) product128(to, q_at + (i / 4) * 512 + (i % 4) * 2, k, i > 0);
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      };
      const auto end = [&](bool release, int stage_of, float (&to)[64]) {
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
        for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(to[i])::"memory");
        __syncwarp();
        if (release && at.lane == 0) barrier_arrive(bars.empty(stage_of));
      };
      const auto look = [&](int at_step, float (&from)[64]) {
        const int first = walk.tile(walk.place<kFirst>(min(at_step, walk.tiles - 1))) * 128;
        const bool needed = at_step < walk.tiles && group_row < p.n && first <= group_row + 63;
        const int column = first + 2 * (at.lane & 3);
        if (needed && first + 127 > group_row) {
#pragma unroll
          for (int i = 0; i < 64; ++i)
            if (column + 8 * (i >> 2) + (i & 1) > row + 8 * (i >> 1 & 1)) from[i] = -FLT_MAX;
        }
        if constexpr (kFirst > 0) {
          if (at_step < 0) {
            if (needed) observer.first(from);
            if (at_step == -1) observer.between(size_t(walk.head) * p.n + min(row, p.n - 9));
            return;
          }
        }
        if (needed) observer.tile(from, column);
      };
      issue(true, held[0], s[0]);
      end(true, held[0], s[0]);
#pragma unroll 1
      for (; t < walk.tiles; t += 2) {
        issue(true, held[1], s[1]);
        look(t, s[0]);
        end(false, held[1], s[1]);
        // Behind the last step the same tile again: no product is issued under a condition.
        const bool more = t + 2 < walk.tiles;
        const int before = held[1];
        if (!more) held[0] = held[1];
        issue(more, held[0], s[0]);
        look(t + 1, s[1]);
        end(more, held[0], s[0]);
        if (at.lane == 0) barrier_arrive(bars.empty(before));
      }
    } else {
      // One loop for both sweeps: products in two places take accumulators of their own.
#pragma unroll 1
      for (; t < walk.tiles; ++t) {
        float s[64];
        const int first = walk.tile(walk.place<kFirst>(t)) * 128;
        const bool needed = product(first, s);
        if constexpr (kFirst > 0) {
          if (t < 0) {
            if (needed) observer.first(s);
            if (t == -1) observer.between(size_t(walk.head) * p.n + min(row, p.n - 9));
            continue;
          }
        }
        if (needed) observer.tile(s, first + 2 * (at.lane & 3));
      }
    }
    release_piece();
    int next = 0;
    if (Shape::kQRegisters) next = next_piece();
    if (group_row < p.n) observer.end(observed, at, size_t(walk.head) * p.n + row, p.n - row, walk.head * p.n);
    if (!Shape::kQRegisters) next = next_piece();
    piece = next;
  }
}
