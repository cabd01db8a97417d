// S = Q K^T by wgmma, K by TMA, no PV, with an observer of the tiles; inputs, expected results and timing beside it.
#pragma once

#include <type_traits>

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

// Inputs of shared/anchor_inputs.py, (heads, n, d) with heads = batch x 16.
DEV float path_at(uint64_t seed, int head, int i, int d, int n) {
  const int m = n / 64 + 2;
  const float x = fmaxf((i + 0.5f) * m / n - 0.5f, 0.0f);
  const int c = min(int(x), m - 1), e = min(c + 1, m - 1);
  const float w = x - c;
  const auto control = [&](int j) { return probe::normal(seed, (size_t(head) * m + j) * HEAD_DIM + d); };
  return control(c) * (1 - w) + control(e) * w;
}
__global__ void make_inputs(bf16* q, bf16* k, int heads, int n, float scale, int local) {
  const size_t all = size_t(heads) * n * HEAD_DIM;
  for (size_t at = blockIdx.x * size_t(blockDim.x) + threadIdx.x; at < all; at += size_t(gridDim.x) * blockDim.x) {
    const int d = int(at % HEAD_DIM), i = int(at / HEAD_DIM % n), head = int(at / HEAD_DIM / n);
    float a = probe::normal(1, at), b = probe::normal(2, at);
    if (local) {
      const float path = path_at(3, head, i, d, n), sink = probe::normal(4, (head % 16) * HEAD_DIM + d);
      a = 2 * path + 0.3f * a + 0.5f * sink;
      b = path + 0.3f * b + (i < 4 ? 1.5f * sink : 0.0f);
    } else {
      a *= scale, b *= scale;
    }
    q[at] = __float2bfloat16(a);
    k[at] = __float2bfloat16(b);
  }
}

struct Expected {
  float top, count, f2, f1, tau, support, worst_o;
};
/// Of one row a thread block: everything that an observer may find, by loops over the row's scores.
__global__ void expect(const bf16* q, const bf16* k, const bf16* v, const bf16* o, const int64_t* rows, int n,
                       float cut, float factor, float* scores, Expected* expected) {
  const int64_t row = rows[blockIdx.x];
  const int i = int(row % n);
  const int64_t head_row = row - i;
  float* s = scores + size_t(blockIdx.x) * n;
  __shared__ double sums[4];
  __shared__ float top;
  for (int j = threadIdx.x; j <= i; j += blockDim.x) {
    float x = 0;
    for (int d = 0; d < HEAD_DIM; ++d)
      x = fmaf(__bfloat162float(q[row * HEAD_DIM + d]), __bfloat162float(k[(head_row + j) * HEAD_DIM + d]), x);
    s[j] = x;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    top = -FLT_MAX;
    for (int j = 0; j <= i; ++j) top = fmaxf(top, s[j]);
  }
  __syncthreads();
  const auto moments = [&](double at) {
    __syncthreads();
    if (threadIdx.x < 4) sums[threadIdx.x] = 0;
    __syncthreads();
    double a = 0, b = 0, c = 0;
    for (int j = threadIdx.x; j <= i; j += blockDim.x)
      if (s[j] > at) a += (s[j] - at) * (s[j] - at), b += s[j] - at, c += 1;
    atomicAdd(sums, a), atomicAdd(sums + 1, b), atomicAdd(sums + 2, c);
    __syncthreads();
  };
  moments(cut);
  if (threadIdx.x == 0) expected[blockIdx.x] = {top, float(sums[2]), float(sums[0]), float(sums[1]), 0, 0, 0};
  double tau = top - 1 / double(factor);
  for (int step = 0; step < 40; ++step) {
    moments(tau);
    tau += (sums[0] - sqrt(sums[0]) / factor) / sums[1];
  }
  moments(tau);
  if (threadIdx.x == 0) {
    expected[blockIdx.x].tau = float(tau);
    expected[blockIdx.x].support = float(sums[2]);
  }
  __syncthreads();
  if (o && threadIdx.x < HEAD_DIM) {
    double x = 0;
    for (int j = 0; j <= i; ++j)
      if (s[j] > tau)
        x += (s[j] - tau) * factor * ((s[j] - tau) * factor) *
             double(__bfloat162float(v[(head_row + j) * HEAD_DIM + threadIdx.x]));
    const float worst = fabsf(float(x) - __bfloat162float(o[row * HEAD_DIM + threadIdx.x]));
    atomicMax(reinterpret_cast<int*>(&expected[blockIdx.x].worst_o), __float_as_int(worst));
  }
}

CUtensorMap tensor_map(const bf16* data, size_t rows, int box_rows) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  CUtensorMap map;
  const cuuint64_t extents[] = {HEAD_DIM, rows}, strides[] = {HEAD_DIM * 2};
  const cuuint32_t box[] = {64, cuuint32_t(box_rows)}, steps[] = {1, 1};
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(data), extents, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) std::fprintf(stderr, "cuTensorMapEncodeTiled: %d\n", int(result)), std::exit(1);
  return map;
}

struct Bench {
  static constexpr int kSampled = 96;
  int heads, n;
  bf16 *q, *k, *v, *o;
  float4* found;
  float2* scratch;
  uint32_t* counters;
  uint64_t* clocks;
  int64_t* rows;
  float* scores;
  Expected* expected;
  uint8_t* records = nullptr;  ///< of Lists
  uint32_t* counts = nullptr;
  float* given = nullptr;  ///< thresholds of an earlier run
  const char* kind = "";
  probe::Csv* csv;
  struct Cell {
    std::string name, kind;
    double ms, after_ms, mhz;
    std::string verdict, predicted;
  };
  std::vector<Cell> cells;

  Bench(int heads, int n, probe::Csv* csv) : heads(heads), n(n), csv(csv) {
    const size_t all = size_t(heads) * n;
    q = probe::allocate<bf16>(all * HEAD_DIM);
    k = probe::allocate<bf16>(all * HEAD_DIM);
    v = probe::normals(all * HEAD_DIM, 5);
    o = probe::allocate<bf16>(all * HEAD_DIM);
    found = probe::allocate<float4>(all);
    scratch = probe::allocate<float2>(size_t(264) * 4 * 64 * 256);
    counters = probe::allocate<uint32_t>(2);
    CHECK(cudaMemset(counters, 0, 8));
    clocks = probe::allocate<uint64_t>(2);
    rows = probe::allocate<int64_t>(kSampled);
    scores = probe::allocate<float>(size_t(kSampled) * n);
    expected = probe::allocate<Expected>(kSampled);
    std::vector<int64_t> sampled;  // all heads, early, late and the last rows, all places in a tile
    for (int i = 0; i < kSampled; ++i) {
      const int64_t row = i % 4 == 3 ? n - 1 - i : 300 + (int64_t(n - 300) * i / kSampled + 37 * i) % (n - 300);
      sampled.push_back(int64_t(i * 7 % heads) * n + row);
    }
    CHECK(cudaMemcpy(rows, sampled.data(), kSampled * 8, cudaMemcpyHostToDevice));
  }
  ~Bench() {
    for (void* p : {(void*)q, (void*)k, (void*)v, (void*)o, (void*)found, (void*)scratch, (void*)counters,
                    (void*)clocks, (void*)rows, (void*)scores, (void*)expected})
      CHECK(cudaFree(p));
  }
  void inputs(const char* name) {
    kind = name;
    const bool local = kind[0] == 'l';
    make_inputs<<<1056, 256>>>(q, k, heads, n, local ? 1.0f : sqrtf(float(kind[3] - '0')), local);
    CHECK(cudaGetLastError());
  }

  template <class Shape, class Observer>
  static std::string observer_name() {
    return std::string(Observer::kName) + (Shape::kAhead ? " (ahead)" : "");
  }
  /// `after`: what else belongs to the time, launched behind the sweep.
  template <class Shape, class Observer>
  void run(const char* predicted) {
    run<Shape, Observer>(predicted, nullptr);
  }
  template <class Shape, class Observer, class After>
  void run(const char* predicted, After&& after) {
    constexpr bool kAfter = !std::is_same_v<std::decay_t<After>, std::nullptr_t>;
    const auto kernel = sweep<Shape, Observer>;
    const int bytes = Shape::kBytes + GROUPS * Observer::kBytes;
    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, kernel));
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    int resident = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, Shape::kThreads, bytes));
    const CUtensorMap keys = tensor_map(k, size_t(heads) * n, Shape::kStageKeys);
    const CUtensorMap queries = tensor_map(q, size_t(heads) * n, 64);
    int section = heads;
    while (size_t(section) * n * HEAD_DIM * 2 > (32u << 20)) section /= 2;
    const float factor = 0.5f / sqrtf(float(HEAD_DIM)), cut = 1.5f / factor;
    const Problem problem{q, counters, clocks, heads, n, section};
    const Observed observed{reinterpret_cast<const uint4*>(v),
                            reinterpret_cast<uint4*>(o),
                            found,
                            scratch,
                            cut,
                            factor,
                            records,
                            counts,
                            given,
                            n};
    CHECK(cudaMemset(found, 0xff, size_t(heads) * n * sizeof(float4)));
    CHECK(cudaMemset(o, 0xff, size_t(heads) * n * HEAD_DIM * 2));
    const float ms = probe::median_ms([&] {
      kernel<<<132 * BLOCKS, Shape::kThreads, bytes>>>(keys, queries, problem, observed);
      if constexpr (kAfter) after(observed);
    });
    float after_ms = 0;
    if constexpr (kAfter) after_ms = probe::median_ms([&] { after(observed); }, 20);
    uint64_t clock[2];
    CHECK(cudaMemcpy(clock, clocks, 16, cudaMemcpyDeviceToHost));
    const double mhz = double(clock[0]) / clock[1] * 1e3, tflops = 2e-9 * HEAD_DIM * heads * (0.5 * n * (n + 1)) / ms;
    const double warp_tiles = double(heads) * n / 16 * (n / 256.0 + 0.5);
    const double cycles = ms * 1e3 * mhz * 528 / warp_tiles;
    const std::string verdict = check(std::string(Observer::kName), cut, factor, kAfter);
    const std::string name = std::to_string(GROUPS) + (BLOCKS == 2 ? "x2" : "") + " D" + std::to_string(HEAD_DIM) +
                             " N" + std::to_string(n) + " " + kind + " Q " + (Shape::kQRegisters ? "reg" : "smem") +
                             " " + std::to_string(Shape::kStages) + "x" + std::to_string(Shape::kStageKeys) + " " +
                             observer_name<Shape, Observer>();
    std::printf("%-58s %7.3f ms %4.0f TF %5.0f cyc %4.0f MHz r%d l%d %s | %s%s\n", name.c_str(), ms, tflops, cycles,
                mhz, Shape::kConsumerRegisters, int(attributes.localSizeBytes), verdict.c_str(), predicted,
                resident < BLOCKS ? " NOT RESIDENT" : "");
    std::string plain = name;
    std::replace(plain.begin(), plain.end(), ',', ';');
    csv->row(plain, "time", ms, "ms", predicted);
    csv->row(plain, "rate", tflops, "TFLOP/s", "");
    if (kAfter) csv->row(plain, "behind the sweep", after_ms, "ms", "");
    cells.push_back({observer_name<Shape, Observer>(), kind, ms, after_ms, mhz, verdict, predicted});
    csv->row(plain, "cycles a warp-tile and quarter", cycles, "cycles", "");
    csv->row(plain, "clock", mhz, "MHz", "");
  }

  /// What the last run found as thresholds, for runs that take them.
  void keep_thresholds() {
    CHECK(cudaMemcpy2D(given, 4, found, sizeof(float4), 4, size_t(heads) * n, cudaMemcpyDeviceToDevice));
  }

  /// Runs down, inputs across: ms (of it behind the sweep), then what was predicted; bad ones and counts below.
  void table() const {
    std::vector<std::string> names, kinds;
    for (const Cell& c : cells) {
      if (std::find(names.begin(), names.end(), c.name) == names.end()) names.push_back(c.name);
      if (std::find(kinds.begin(), kinds.end(), c.kind) == kinds.end()) kinds.push_back(c.kind);
    }
    std::printf("TABLE W %d D%d N%d, ms (behind the sweep) | predicted:", GROUPS, HEAD_DIM, n);
    for (const std::string& kind : kinds) std::printf("  %s", kind.c_str());
    for (const std::string& name : names) {
      std::printf("\n%-30s", name.c_str());
      std::string predicted;
      for (const std::string& kind : kinds)
        for (const Cell& c : cells)
          if (c.name == name && c.kind == kind) {
            const bool bad = c.verdict.starts_with("BAD");
            char after[16] = "      ";
            if (c.after_ms > 0) std::snprintf(after, sizeof after, "(%.2f)", c.after_ms);
            std::printf(" %7.3f%s%c", c.ms, after, bad ? '!' : ' ');
            predicted += (predicted.empty() ? "" : "; ") + c.predicted;
          }
      std::printf("| %s", predicted.c_str());
    }
    std::printf("\n");
    for (const Cell& c : cells)
      if (c.verdict.starts_with("BAD") || (n == 8192 && (c.name == "R1 clocked" || (c.kind == "iid1" && c.after_ms > 0))))
        std::printf("  %s %s: %s\n", c.kind.c_str(), c.name.c_str(), c.verdict.c_str());
  }

  /// Compares sampled rows with loops over their scores; returns "ok" and what was found, or the number of bad rows.
  std::string check(const std::string& name, float cut, float factor, bool after) {
    const bool gathered = name == "R1 + gather" || after, lists = name.starts_with("lists"), whole = name == "R1" || gathered;
    expect<<<kSampled, 256>>>(q, k, v, gathered ? o : nullptr, rows, n, cut, factor, scores, expected);
    CHECK(cudaDeviceSynchronize());
    std::vector<Expected> want(kSampled);
    std::vector<int64_t> at(kSampled);
    std::vector<float4> all(size_t(heads) * n);
    CHECK(cudaMemcpy(want.data(), expected, kSampled * sizeof(Expected), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(at.data(), rows, kSampled * 8, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(all.data(), found, all.size() * sizeof(float4), cudaMemcpyDeviceToHost));
    int bad = 0;
    double worst = 0;
    const auto near = [&](float a, float b, float relative, float absolute) {
      const double error = std::abs(double(a) - b);
      if (!(error <= relative * std::abs(b) + absolute)) ++bad;
    };
    for (int i = 0; i < kSampled; ++i) {
      const float4 f = all[at[i]];
      const Expected& w = want[i];
      if (name.starts_with("max") || name.starts_with("detect")) near(f.x, w.top, 5e-6f, 2e-4f);
      if (name.starts_with("max + count")) near(f.y, w.count, 0, 1);
      if (name.starts_with("moments")) near(f.x, w.f2, 1e-4f, 1e-2f), near(f.y, w.f1, 1e-4f, 1e-2f);
      const bool bound = f.x <= w.tau + 5e-6f * std::abs(w.tau) && f.x >= w.top - 1 / factor - 2e-4f;
      if (name.starts_with("buckets") && !bound) ++bad;
      if (name.starts_with("2 sweeps") && !(bound && f.y >= w.support / 2 - 1 && f.y <= 1.5f * w.support + 12)) ++bad;
      if (name.starts_with("R1 part: tau given")) near(f.x, w.tau, 5e-6f, 2e-4f);
      if (name == "R1 part: no end" && !bound) ++bad;
      if (whole) {
        near(f.x, w.tau, 5e-6f, 2e-4f), near(f.y, w.support, 0, 1);
        worst = std::max(worst, std::abs(double(f.x) - w.tau) * factor);
      }
      if (gathered && !(w.worst_o <= 0.02f)) ++bad;
    }
    if (bad) return "BAD " + std::to_string(bad) + "/" + std::to_string(kSampled);
    char text[160] = "ok";
    double a = 0, b = 0, c = 0;
    for (const float4& f : all) a += f.y, b += f.z, c = std::max(c, double(f.y));
    const double tiles = n / 256.0 + 0.5;
    if (name.starts_with("detect"))
      std::snprintf(text, sizeof text, "ok hit %.3f groups %.3f", a / all.size() / tiles, b / all.size() / tiles / 4);
    double over = 0;
    if (lists && after) {
      for (const float4& f : all) over += f.w != 0;
      if (over > 0) return "BAD " + std::to_string(int(over)) + " rows overflow";
    }
    if (name == "R1 clocked")
      std::snprintf(text, sizeof text, "solves a warp %.2f, clocks in them %.0f, at the end %.0f", [&] {
        double x = 0;
        for (const float4& f : all) x += f.x;
        return x / all.size();
      }(), a / all.size(), b / all.size());
    if (name.starts_with("2 sweeps")) std::snprintf(text, sizeof text, "ok pairs %.1f", a / all.size());
    if (whole)
      std::snprintf(text, sizeof text, "ok supp %.1f max %.0f app %.0f dtau %.0e", a / all.size(), c, b / all.size(),
                    worst);
    return text;
  }
};
