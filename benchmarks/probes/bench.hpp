// The score sweep's inputs, expected results, timing and tables.
#pragma once

#include <type_traits>

#include "sweep.hpp"

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
  static std::string observer_name(bool after) {
    const std::string name = Observer::kName;
    return name + (name.starts_with("lists") && !after ? "; sweep" : "") + (Shape::kAhead ? " A" : "");
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
                             observer_name<Shape, Observer>(kAfter);
    std::printf("%-58s %7.3f ms %4.0f TF %5.0f cyc %4.0f MHz r%d l%d %s | %s%s\n", name.c_str(), ms, tflops, cycles,
                mhz, Shape::kConsumerRegisters, int(attributes.localSizeBytes), verdict.c_str(), predicted,
                resident < BLOCKS ? " NOT RESIDENT" : "");
    std::string plain = name;
    std::replace(plain.begin(), plain.end(), ',', ';');
    csv->row(plain, "time", ms, "ms", predicted);
    csv->row(plain, "rate", tflops, "TFLOP/s", "");
    if (kAfter) csv->row(plain, "behind the sweep", after_ms, "ms", "");
    cells.push_back({observer_name<Shape, Observer>(kAfter), kind, ms, after_ms, mhz, verdict, predicted});
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
    for (const std::string& kind : kinds) std::printf(" %s", kind.c_str());
    for (const std::string& name : names) {
      std::printf("\n%-28s", name.c_str());
      std::string predicted;
      for (const std::string& kind : kinds)
        for (const Cell& c : cells)
          if (c.name == name && c.kind == kind) {
            char text[32];
            std::snprintf(text, sizeof text, c.after_ms > 0 ? "%.3f(%.2f)" : "%.3f", c.ms, c.after_ms);
            std::printf(" %s%s", text, c.verdict.starts_with("BAD") ? "!" : "");
            predicted += (predicted.empty() || c.predicted.empty() ? "" : "|") + c.predicted;
          }
      std::printf("%s%s", predicted.empty() ? "" : " | ", predicted.c_str());
    }
    std::printf("\n");
    for (const Cell& c : cells)
      if (c.verdict.starts_with("BAD") || c.name == "R1 clocked" ||
          (GROUPS == 3 && n == 8192 && c.kind == "iid1" && c.after_ms > 0))
        std::printf("  %s %s: %s\n", c.kind.c_str(), c.name.c_str(), c.verdict.c_str());
  }

  /// Compares sampled rows with loops over their scores; returns "ok" and what was found, or the number of bad rows.
  std::string check(const std::string& name, float cut, float factor, bool after) {
    const bool gathered = name == "R1 + gather" || after, lists = name.starts_with("lists"),
               whole = name == "R1" || gathered;
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
      if ((name.starts_with("buckets") || (lists && !after)) && !bound) ++bad;
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
      std::snprintf(
          text, sizeof text, "solves a warp %.2f, clocks in them %.0f, at the end %.0f",
          [&] {
            double x = 0;
            for (const float4& f : all) x += f.x;
            return x / all.size();
          }(),
          a / all.size(), b / all.size());
    if (name.starts_with("2 sweeps")) std::snprintf(text, sizeof text, "ok pairs %.1f", a / all.size());
    if (whole)
      std::snprintf(text, sizeof text, "ok supp %.1f max %.0f app %.0f dtau %.0e", a / all.size(), c, b / all.size(),
                    worst);
    return text;
  }
};
