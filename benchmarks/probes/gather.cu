// O_i = sum of p V_j over a list of keys: how fast do rows of 128 and 256 bytes arrive? 2 x 16 heads x 8192 queries; V
// is 34 MB at D64, 67 MB at D128, of which four heads or so are in use at a time.
#include "lists.hpp"

using bf16 = __nv_bfloat16;
using probe::pack;
using probe::unpack;

enum class Way { kLanes, kWarp, kQuad, kAsync };
constexpr int kThreads = 256;

DEV void add(float (&acc)[8], float p, uint4 v) {
  float x[8];
  unpack(v, x);
#pragma unroll
  for (int d = 0; d < 8; ++d) acc[d] = fmaf(p, x[d], acc[d]);
}

template <int D, Way kWay>
__global__ void __launch_bounds__(kThreads)
    gather(const Entry* lists, const uint4* v, uint4* o, size_t rows, int n, int each) {
  constexpr int kRowLanes = D / 8, kLanes = kWay == Way::kWarp ? 32 : kWay == Way::kQuad ? 4 : kRowLanes;
  constexpr int kVectors = kWay == Way::kQuad ? kRowLanes / 4 : 1;  // of 16 bytes a lane
  constexpr int kAtOnce = kWay == Way::kWarp ? 32 / kRowLanes : 1;
  const size_t row = (blockIdx.x * size_t(kThreads) + threadIdx.x) / kLanes;
  if (row >= rows) return;
  const int lane = threadIdx.x % kLanes, part = lane % (kWay == Way::kQuad ? 4 : kRowLanes);
  lists += row * each;
  v += row / n * n * kRowLanes + part;
  float acc[kVectors][8] = {};
  if constexpr (kWay == Way::kAsync) {
    constexpr int kDepth = 8;
    __shared__ uint4 room[kDepth][kThreads];
    const auto ask = [&](int e) {
      if (e < each)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         uint32_t(__cvta_generic_to_shared(&room[e % kDepth][threadIdx.x]))),
                     "l"(v + lists[e].key * kRowLanes)
                     : "memory");
      asm volatile("cp.async.commit_group;" ::: "memory");
    };
    for (int e = 0; e < kDepth - 1; ++e) ask(e);
#pragma unroll 4
    for (int e = 0; e < each; ++e) {
      ask(e + kDepth - 1);
      asm volatile("cp.async.wait_group %0;" ::"n"(kDepth - 1) : "memory");
      const float base = lists[e].base;
      add(acc[0], base * base, room[e % kDepth][threadIdx.x]);
    }
  } else {
#pragma unroll 4
    for (int e = kWay == Way::kWarp ? lane / kRowLanes : 0; e < each; e += kAtOnce) {
      const Entry entry = lists[e];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) add(acc[i], entry.base * entry.base, __ldg(v + entry.key * kRowLanes + 4 * i));
    }
    if constexpr (kWay == Way::kWarp)
#pragma unroll
      for (int step = kRowLanes; step < 32; step *= 2)
#pragma unroll
        for (int d = 0; d < 8; ++d) acc[0][d] += __shfl_xor_sync(~0u, acc[0][d], step);
  }
  if (kWay == Way::kWarp && lane >= kRowLanes) return;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) o[row * kRowLanes + part + 4 * i] = pack(acc[i]);
}

/// Every 997th row again, a thread a dimension; `bad` counts what differs by more than rounding to bf16.
template <int D>
__global__ void verify(const Entry* lists, const bf16* v, const bf16* o, int n, int each, int* bad) {
  const size_t row = blockIdx.x * size_t(997);
  float sum = 0, size = 0;
  for (int e = 0; e < each; ++e) {
    const Entry entry = lists[row * each + e];
    const float x = entry.base * entry.base * __bfloat162float(v[(row / n * n + entry.key) * D + threadIdx.x]);
    sum += x, size += fabsf(x);
  }
  if (!(fabsf(sum - __bfloat162float(o[row * D + threadIdx.x])) <= 0.005f * fabsf(sum) + 1e-5f * size))
    atomicAdd(bad, 1);
}

int main(int argc, char** argv) {
  probe::Csv csv(argc, argv, "gather");
  constexpr int kHeads = 32, kN = 8192;
  constexpr size_t kRows = size_t(kHeads) * kN;
  auto* lists = probe::allocate<Entry>(kRows * 200);
  auto* bad = probe::allocate<int>(1);
  CHECK(cudaMemset(bad, 0, 4));
  std::printf(
      "TB/s of V: D/8 lanes a query | warp a query | quad a query | D/8 lanes, cp.async depth 8; ns a row of the "
      "best\n");
  const auto of_head_dim = [&]<int D>(std::integral_constant<int, D>) {
    bf16* v = probe::normals(kRows * D, 21);
    bf16* o = probe::allocate<bf16>(kRows * D);
    for (const Draw draw : {Draw::kRandom, Draw::kSorted, Draw::kLocal})
      for (const int each : {8, 22, 64, 200}) {
        draw_lists<<<2112, 256>>>(lists, kRows, kN, each, draw);
        const std::string name =
            std::string(name_of(draw)) + " D" + std::to_string(D) + " " + std::to_string(each) + " a row";
        const char* predicted = draw == Draw::kRandom ? "5-6" : draw == Draw::kLocal ? "10-12 by L1" : "5-6";
        const double bytes = double(kRows) * each * D * 2;
        double rates[4], best = 0;
        int way = 0;
        const auto one = [&](auto kernel, int lanes, const char* how) {
          CHECK(cudaMemset(o, 0xff, kRows * D * 2));
          const int blocks = int(kRows * lanes / kThreads);
          const float ms = probe::median_ms(
              [&] {
                kernel<<<blocks, kThreads>>>(lists, reinterpret_cast<const uint4*>(v), reinterpret_cast<uint4*>(o),
                                             kRows, kN, each);
              },
              25);
          verify<D><<<(kRows + 996) / 997, D>>>(lists, v, o, kN, each, bad);
          CHECK(cudaGetLastError());
          rates[way] = bytes / ms * 1e-9;
          best = std::max(best, rates[way++]);
          csv.row(name + " " + how, "rate", rates[way - 1], "TB/s", predicted);
        };
        one(gather<D, Way::kLanes>, D / 8, "lanes");
        one(gather<D, Way::kWarp>, 32, "warp");
        one(gather<D, Way::kQuad>, 4, "quad");
        one(gather<D, Way::kAsync>, D / 8, "cp.async");
        std::printf("  %-24s %6.2f %6.2f %6.2f %6.2f | %.4f ns | predicted %s\n", name.c_str(), rates[0], rates[1],
                    rates[2], rates[3], D * 2 * 1e-3 / best, predicted);
      }
    CHECK(cudaFree(v));
    CHECK(cudaFree(o));
  };
  of_head_dim(std::integral_constant<int, 64>{});
  of_head_dim(std::integral_constant<int, 128>{});
  int wrong;
  CHECK(cudaMemcpy(&wrong, bad, 4, cudaMemcpyDeviceToHost));
  std::printf("  %s\n", wrong ? "WRONG SUMS" : "sums ok");
  return wrong != 0;
}
