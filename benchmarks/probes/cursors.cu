// 1. Appends to lists in shared memory, three warp groups of 64 rows a multiprocessor, scores in the register layout of
//    wgmma (here integers that a generator renews, one instruction a score): what does an append cost beside the test
//    of a tile of 128 columns? Lists of a lane (R1's young lists, pairs of columns), lists of a row with a cursor in
//    shared memory (atomicAdd of a thread's hits), with ballots, with a prefix over the quad.
// 2. Cursors in global memory with return and scattered stores of 8 bytes: entries of queries to the lists of keys.
#include "lists.hpp"

enum class Way { kTest, kLane, kAtomic, kBallot, kPrefix };
constexpr int kGroups = 3, kThreads = 128 * kGroups, kSlots = 64, kLaneSlots = 16;
constexpr int kRowBytes = 64 * kSlots * 8 + 64 * 4, kLaneBytes = 3 * kLaneSlots * 128 * 8;
constexpr int kBytes = kGroups * (kRowBytes > kLaneBytes ? kRowBytes : kLaneBytes);

DEV uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
DEV void put2(uint32_t at, uint32_t a, uint32_t b) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(at), "r"(a), "r"(b) : "memory");
}
DEV void put1(uint32_t at, uint32_t a) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(a) : "memory"); }
DEV uint32_t get1(uint32_t at) {
  uint32_t v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
  return v;
}

template <Way kWay>
__global__ void __launch_bounds__(kThreads, 1) append(const uint32_t* seeds, uint32_t cut, int tiles, uint64_t* cycles,
                                                      unsigned long long* appended, uint64_t* sums) {
  extern __shared__ __align__(16) uint8_t memory[];
  const int group = threadIdx.x >> 7, thread = threadIdx.x & 127, lane = threadIdx.x & 31, quad = lane & 3;
  const uint32_t room = shared_address(memory) + group * (kBytes / kGroups);
  const int row0 = (thread >> 5) * 16 + (lane >> 2);
  const uint32_t cursors = room + 64 * kSlots * 8, lane_lists = room + thread * 8;
  constexpr uint32_t kLaneSlot = 128 * 8, kPlane = kLaneSlots * kLaneSlot;
  if (thread < 64 && kWay != Way::kLane) put1(cursors + 4 * thread, 0);
  uint32_t s[64], pointer[2] = {lane_lists, lane_lists}, count[2] = {0, 0}, hits = 0;
#pragma unroll
  for (int i = 0; i < 64; ++i) s[i] = seeds[(blockIdx.x * kThreads + threadIdx.x) * 64 + i];
  __syncthreads();
  const int64_t from = clock64();
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    uint32_t top[4][2];
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] = s[i] * 1664525u + 1013904223u;
#pragma unroll
    for (int g = 0; g < 4; ++g)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        uint32_t m = __vimax3_u32(s[16 * g + 2 * r], s[16 * g + 2 * r + 1], s[16 * g + 4 + 2 * r]);
        m = __vimax3_u32(m, s[16 * g + 5 + 2 * r], s[16 * g + 8 + 2 * r]);
        m = __vimax3_u32(m, s[16 * g + 9 + 2 * r], s[16 * g + 12 + 2 * r]);
        top[g][r] = max(m, s[16 * g + 13 + 2 * r]);
      }
    const uint32_t column = tile * 128 + 2 * quad;
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      if (!__any_sync(~0u, top[g][0] > cut || top[g][1] > cut)) continue;
      if constexpr (kWay == Way::kTest) ++hits;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const auto value = [&](int i) { return s[16 * g + 4 * (i >> 1) + 2 * r + (i & 1)]; };
        const uint32_t row_list = room + (row0 + 8 * r) * (kSlots * 8);
        if constexpr (kWay == Way::kLane) {
          if (pointer[r] > lane_lists + (kLaneSlots - 4) * kLaneSlot) pointer[r] = lane_lists;
#pragma unroll
          for (int n = 0; n < 4; ++n)
            if (value(2 * n) > cut || value(2 * n + 1) > cut) {
              put2(pointer[r] + r * kPlane, value(2 * n), value(2 * n + 1));
              put1(pointer[r] + 2 * kPlane + 4 * r, column + 32 * g + 8 * n);
              pointer[r] += kLaneSlot;
              ++count[r];
            }
        }
        if constexpr (kWay == Way::kAtomic || kWay == Way::kPrefix) {
          uint32_t mine = 0;
#pragma unroll
          for (int i = 0; i < 8; ++i) mine += value(i) > cut;
          uint32_t to;
          if constexpr (kWay == Way::kAtomic) {
            if (mine)
              asm volatile("atom.shared.add.u32 %0, [%1], %2;"
                           : "=r"(to)
                           : "r"(cursors + 4 * (row0 + 8 * r)), "r"(mine)
                           : "memory");
          } else {
            const uint32_t one = __shfl_up_sync(~0u, mine, 1, 4);
            uint32_t sum = mine + (quad >= 1 ? one : 0);
            const uint32_t two = __shfl_up_sync(~0u, sum, 2, 4);
            sum += quad >= 2 ? two : 0;
            to = count[r] + sum - mine;
            count[r] += __shfl_sync(~0u, sum, 3, 4);
          }
          if (mine)
#pragma unroll
            for (int i = 0; i < 8; ++i)
              if (value(i) > cut)
                put2(row_list + (to++ % kSlots) * 8, value(i), column + 32 * g + 8 * (i >> 1) + (i & 1));
        }
        if constexpr (kWay == Way::kBallot)
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const bool hit = value(i) > cut;
            uint32_t votes = __ballot_sync(~0u, hit);
            if (!votes) continue;
            votes = votes >> (lane & 28) & 15;
            const uint32_t to = count[r] + __popc(votes & ((1u << quad) - 1));
            if (hit) put2(row_list + (to % kSlots) * 8, value(i), column + 32 * g + 8 * (i >> 1) + (i & 1));
            count[r] += __popc(votes);
          }
      }
    }
  }
  __syncthreads();
  const int64_t took = clock64() - from;
  if (threadIdx.x == 0) cycles[blockIdx.x] = took;
  // What was appended, and the sum of the lists' scores (of use where no list has wrapped).
  uint64_t total = kWay == Way::kTest ? hits : count[0] + uint64_t(count[1]), sum = 0;
  if (kWay == Way::kAtomic) total = thread < 64 ? get1(cursors + 4 * thread) : 0;
  if ((kWay == Way::kBallot || kWay == Way::kPrefix) && quad) total = 0;
  if (kWay == Way::kLane)
    for (int r = 0; r < 2; ++r)
      for (uint32_t at = lane_lists; at < pointer[r]; at += kLaneSlot)
        for (int e = 0; e < 2; ++e) {
          const uint32_t v = get1(at + r * kPlane + 4 * e);
          sum += v > cut ? v : 0;
        }
  if (kWay != Way::kLane && kWay != Way::kTest && quad == 0)
    for (int r = 0; r < 2; ++r) {
      const int row = row0 + 8 * r;
      const uint32_t n = kWay == Way::kAtomic ? get1(cursors + 4 * row) : count[r];
      for (uint32_t i = 0; i < min(n, uint32_t(kSlots)); ++i) sum += get1(room + row * (kSlots * 8) + i * 8);
    }
  uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < 64; ++i) all ^= s[i];
  if (all == 0x12345678u) ++total;
  atomicAdd(appended, total);
  atomicAdd(reinterpret_cast<unsigned long long*>(sums), sum);
}

__global__ void count_keys(const Entry* lists, uint32_t entries, uint32_t each, uint32_t n, uint32_t* cursors) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at < entries) atomicAdd(cursors + at / each / n * n + lists[at].key, 1);
}
/// Where each key's list begins: an exclusive sum over the keys of a head, a thread block a head.
__global__ void __launch_bounds__(1024) scan(uint32_t* cursors, int n, size_t head_entries) {
  __shared__ uint32_t sums[1024];
  const int per = n / 1024;
  cursors += blockIdx.x * size_t(n) + threadIdx.x * per;
  uint32_t mine = 0;
  for (int i = 0; i < per; ++i) mine += cursors[i];
  sums[threadIdx.x] = mine;
  __syncthreads();
  for (int step = 1; step < 1024; step *= 2) {
    const uint32_t before = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
    __syncthreads();
    sums[threadIdx.x] += before;
    __syncthreads();
  }
  uint32_t at = uint32_t(blockIdx.x * head_entries) + sums[threadIdx.x] - mine;
  for (int i = 0; i < per; ++i) {
    const uint32_t here = cursors[i];
    cursors[i] = at;
    at += here;
  }
}
template <bool kStore, bool kReturn>
__global__ void distribute(const Entry* lists, uint32_t entries, uint32_t each, uint32_t n, uint32_t* cursors,
                           uint2* by_key) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= entries) return;
  const Entry entry = lists[at];
  const uint32_t row = at / each;
  uint32_t* cursor = cursors + row / n * n + entry.key;
  uint32_t to = __umulhi(at * 2654435761u, entries);
  if (kReturn)
    to = atomicAdd(cursor, 1);
  else if (!kStore)
    atomicAdd(cursor, 1);
  if (kStore) by_key[to] = make_uint2(row, __float_as_uint(entry.base));
  if (kReturn && !kStore && to == ~0u) by_key[0] = make_uint2(row, to);
}

int main(int argc, char** argv) {
  probe::Csv csv(argc, argv, "cursors");
  auto* seeds = probe::allocate<uint32_t>(size_t(132) * kThreads * 64);
  {
    std::vector<uint32_t> values(size_t(132) * kThreads * 64);
    uint64_t x = 88172645463325252ull;
    for (uint32_t& v : values) x ^= x << 13, x ^= x >> 7, x ^= x << 17, v = uint32_t(x >> 32);
    CHECK(cudaMemcpy(seeds, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
  }
  auto* cycles = probe::allocate<uint64_t>(132);
  auto* totals = probe::allocate<uint64_t>(2);
  const auto one = [&](auto kernel, uint32_t cut, int tiles, uint64_t (&found)[2]) {
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    const auto launch = [&] {
      kernel<<<132, kThreads, kBytes>>>(seeds, cut, tiles, cycles, reinterpret_cast<unsigned long long*>(totals),
                                        totals + 1);
    };
    probe::median_ms(launch, 5);
    CHECK(cudaMemset(totals, 0, 16));
    launch();
    CHECK(cudaMemcpy(found, totals, 16, cudaMemcpyDeviceToHost));
    std::vector<uint64_t> took(132);
    CHECK(cudaMemcpy(took.data(), cycles, 132 * 8, cudaMemcpyDeviceToHost));
    std::nth_element(took.begin(), took.begin() + 66, took.end());
    return double(took[66]) / tiles / kGroups;
  };
  // Right first: 4 tiles, 2 appends a row and tile, the same entries in all four kinds of lists.
  const uint32_t check_cut = uint32_t(4294967296.0 * (1 - 2.0 / 128));
  uint64_t found[4][2];
  one(append<Way::kLane>, check_cut, 4, found[0]);
  one(append<Way::kAtomic>, check_cut, 4, found[1]);
  one(append<Way::kBallot>, check_cut, 4, found[2]);
  one(append<Way::kPrefix>, check_cut, 4, found[3]);
  const bool same = found[1][0] == found[2][0] && found[1][0] == found[3][0] && found[1][1] == found[2][1] &&
                    found[1][1] == found[3][1];
  const double expected = 132.0 * kGroups * 64 * 4 * 2;
  const bool close = std::abs(double(found[1][0]) / expected - 1) < 0.02, lanes = found[0][1] == found[1][1];
  std::printf("lists of rows %s, number %s, lists of lanes %s\n", same ? "agree" : "DIFFER",
              close ? "as drawn" : "WRONG", lanes ? "agree" : "DIFFER (or one has wrapped)");
  std::printf("cycles a warp-tile of 16 x 128 and quarter: test only | + lane lists | atomic | ballot | prefix\n");
  for (const double each : {0.1, 0.5, 1.0, 2.0, 4.0}) {
    const uint32_t cut = uint32_t(4294967296.0 * (1 - each / 128));
    uint64_t none[2];
    const double test = one(append<Way::kTest>, cut, 2000, none);
    const double ways[] = {one(append<Way::kLane>, cut, 2000, none), one(append<Way::kAtomic>, cut, 2000, none),
                           one(append<Way::kBallot>, cut, 2000, none), one(append<Way::kPrefix>, cut, 2000, none)};
    const char* names[] = {"lane pairs", "row atomic", "row ballot", "row prefix"};
    // A group of 32 columns: 68 instructions, 60 to 80 cycles (design, section 1), for the share of groups with a hit.
    double hit = 1;
    for (int i = 0; i < 16 * 32; ++i) hit *= 1 - each / 128;
    char predicted[64], name[64];
    std::snprintf(predicted, sizeof predicted, "lane +%.0f to +%.0f", 4 * (1 - hit) * 48, 4 * (1 - hit) * 80);
    std::snprintf(name, sizeof name, "%.1f a row and tile", each);
    std::printf("  %-20s %6.0f | %+6.0f %+6.0f %+6.0f %+6.0f | predicted %s\n", name, test, ways[0] - test,
                ways[1] - test, ways[2] - test, ways[3] - test, predicted);
    csv.row(name, "test only", test, "cycles", "");
    for (int i = 0; i < 4; ++i) csv.row(name, names[i], ways[i] - test, "cycles more", i ? "" : predicted);
  }

  constexpr int kN = 8192;
  constexpr size_t kRows = size_t(32) * kN;
  auto* lists = probe::allocate<Entry>(kRows * 23);
  auto* by_key = probe::allocate<uint2>(kRows * 23);
  auto* cursors = probe::allocate<uint32_t>(kRows);
  std::printf("global cursors, ms: count only | atomic with return | scattered 8-byte store | both (scan beside it)\n");
  struct Case {
    const char* name;
    Draw draw;
    int each;
    const char* predicted;
  };
  for (const Case c : {Case{"iid1: 6.0 M", Draw::kRandom, 23, "0.06 | 0.07 | 0.05 | 0.10"},
                       Case{"iid4: 1.0 M", Draw::kRandom, 4, "0.012 | 0.015 | 0.01 | 0.02"},
                       Case{"local: 2.6 M", Draw::kLocal, 10, "0.03 | 0.035 | 0.02 | 0.045"}}) {
    const uint32_t entries = uint32_t(kRows) * c.each;
    const int blocks = int((entries + 255) / 256);
    draw_lists<<<2112, 256>>>(lists, kRows, kN, c.each, c.draw);
    CHECK(cudaMemset(cursors, 0, kRows * 4));
    const float count = probe::median_ms([&] { count_keys<<<blocks, 256>>>(lists, entries, c.each, kN, cursors); });
    const float with_return = probe::median_ms(
        [&] { distribute<false, true><<<blocks, 256>>>(lists, entries, c.each, kN, cursors, by_key); });
    const float store = probe::median_ms(
        [&] { distribute<true, false><<<blocks, 256>>>(lists, entries, c.each, kN, cursors, by_key); });
    const auto index = [&] {
      CHECK(cudaMemsetAsync(cursors, 0, kRows * 4));
      count_keys<<<blocks, 256>>>(lists, entries, c.each, kN, cursors);
      scan<<<32, 1024>>>(cursors, kN, size_t(kN) * c.each);
    };
    const float indexed = probe::median_ms(index);
    const float all = probe::median_ms([&] {
      index();
      distribute<true, true><<<blocks, 256>>>(lists, entries, c.each, kN, cursors, by_key);
    });
    // Each key's list is full to where the next one begins, so the last cursor of a head is the next head's first
    // entry.
    std::vector<uint32_t> ends(kRows);
    CHECK(cudaMemcpy(ends.data(), cursors, kRows * 4, cudaMemcpyDeviceToHost));
    bool right = true;
    for (int h = 0; h < 32; ++h) right &= ends[size_t(h) * kN + kN - 1] == uint32_t((h + 1) * size_t(kN) * c.each);
    std::printf("  %-14s %.4f | %.4f | %.4f | %.4f (count + scan %.4f) %s | predicted %s\n", c.name, count, with_return,
                store, all - indexed, indexed, right ? "ok" : "WRONG", c.predicted);
    csv.row(c.name, "count", count, "ms", "");
    csv.row(c.name, "atomic with return", with_return, "ms", "");
    csv.row(c.name, "scattered store", store, "ms", "");
    csv.row(c.name, "both", all - indexed, "ms", c.predicted);
    csv.row(c.name, "zero; count; scan", indexed, "ms", "");
  }
  return 0;
}
