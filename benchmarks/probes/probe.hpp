// What the probes share: errors, timing by events, random numbers that need no state, rows of a CSV.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#define DEV __device__ __forceinline__
#define CHECK(call)                                                                        \
  do {                                                                                     \
    const cudaError_t error_ = (call);                                                     \
    if (error_ != cudaSuccess) {                                                           \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error_)); \
      std::exit(1);                                                                        \
    }                                                                                      \
  } while (0)

namespace probe {

/// Median time of one call in ms: warm for 20 ms, then at least 9 samples of at least 0.3 ms each.
template <class Launch>
float median_ms(Launch&& launch, float budget_ms = 60) {
  cudaEvent_t from, to;
  CHECK(cudaEventCreate(&from));
  CHECK(cudaEventCreate(&to));
  const auto time = [&](int calls) {
    CHECK(cudaEventRecord(from));
    for (int i = 0; i < calls; ++i) launch();
    CHECK(cudaEventRecord(to));
    CHECK(cudaEventSynchronize(to));
    CHECK(cudaGetLastError());
    float ms;
    CHECK(cudaEventElapsedTime(&ms, from, to));
    return ms / calls;
  };
  time(1);
  const float once = time(2);
  time(std::clamp(int(20 / once), 1, 2000));
  const int calls = std::max(1, int(0.3f / once + 0.999f));
  const int samples = std::clamp(int(budget_ms / (once * calls)), 9, 41);
  std::vector<float> ms;
  for (int i = 0; i < samples; ++i) ms.push_back(time(calls));
  CHECK(cudaEventDestroy(from));
  CHECK(cudaEventDestroy(to));
  std::nth_element(ms.begin(), ms.begin() + samples / 2, ms.end());
  return ms[samples / 2];
}

DEV uint64_t hash(uint64_t seed, uint64_t at) {
  uint64_t x = at * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull + 0x8CB92BA72F3D8DD7ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

DEV uint32_t below(uint64_t seed, uint64_t at, uint32_t n) { return uint32_t(((hash(seed, at) >> 32) * n) >> 32); }

DEV float normal(uint64_t seed, uint64_t at) {
  const uint64_t h = hash(seed, at);
  const float u = (float(uint32_t(h)) + 0.5f) * 2.3283064e-10f, v = float(uint32_t(h >> 32)) * 2.3283064e-10f;
  return sqrtf(-2.0f * logf(fminf(u, 0.99999994f))) * cospif(2.0f * v);
}

static __global__ void fill_normal(__nv_bfloat16* x, size_t n, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
    x[i] = __float2bfloat16(normal(seed, i));
}

template <class T>
T* allocate(size_t n) {
  T* p;
  CHECK(cudaMalloc(&p, n * sizeof(T)));
  CHECK(cudaMemset(p, 0xff, n * sizeof(T)));
  return p;
}

inline __nv_bfloat16* normals(size_t n, uint64_t seed) {
  auto* x = allocate<__nv_bfloat16>(n);
  fill_normal<<<1056, 256>>>(x, n, seed);
  CHECK(cudaGetLastError());
  return x;
}

DEV void unpack(uint4 v, float (&x)[8]) {
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(w[i] << 16);
    x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
}

DEV uint32_t pack(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

DEV uint4 pack(const float (&x)[8]) {
  return make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}

/// Rows `probe,case,measure,value,unit,predicted` of the file that the first argument names, appended.
class Csv {
 public:
  Csv(int argc, char** argv, const char* probe) : probe_(probe), file_(argc > 1 ? std::fopen(argv[1], "a") : nullptr) {
    CHECK(cudaFree(nullptr));
  }
  ~Csv() {
    if (file_) std::fclose(file_);
  }
  void row(const std::string& name, const char* measure, double value, const char* unit, const std::string& predicted) {
    if (file_)
      std::fprintf(file_, "%s,%s,%s,%.5g,%s,%s\n", probe_, name.c_str(), measure, value, unit, predicted.c_str());
  }

 private:
  const char* probe_;
  std::FILE* file_;
};

}  // namespace probe
