// The backward of rows whose keys of weight are listed: no product of all queries with all keys.
//
//   count_keys     how often each key is listed; whether any row has weights and no list
//   index_keys     where the entries of each key begin
//   list_queries   a row gathers V, so dP, delta, P and dS, then K: dQ. P and dS go to their keys
//   order_keys     the entries of a key by their rows, where gradients are to repeat bit for bit
//   list_keys      a key gathers Q and dO: dK and dV
// Plain CUDA. Rows that are not listed are left to unlisted_backward.hpp.
#pragma once

#include "splash/core/candidates.hpp"
#include "splash/kernel/row_lanes.hpp"
#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

/// Keys with more entries are worked on by a block of threads.
inline constexpr uint32_t kManyEntries = 256;
inline constexpr int kListThreads = 256;

/// An entry as its key sees it.
struct alignas(8) KeyEntry {
  uint32_t row;        ///< head * Nq + query
  uint16_t p, dscore;  ///< Elements
};

template <class Element, class Normalizer>
struct ListBackwardParams {
  RowsOf<const Element> q, k, v, grad_out;
  RowsOf<Element> grad_q, grad_k, grad_v;
  RowLists lists;
  const float *statistic, *saved, *grad_statistic;  ///< (B, Hq, Nq), (planes, B, Hq, Nq), (B, Hq, Nq) or nullptr
  uint32_t *counts, *cursors, *begins;              ///< (B, key heads of the call, Nk)
  uint32_t* many;                                   ///< how many keys have many entries, and which
  int* any_unlisted;
  KeyEntry *entries, *ordered;  ///< kListedKeys for each row of the call; ordered: nullptr where order does not matter
  Normalizer normalizer;
  float scale;
  int heads, group, num_queries, num_keys, head_dim;
  RowBlocks blocks;                                       ///< of queries
  int first_key_head, key_head_step, key_heads, members;  ///< key heads, and query heads of the call each has
  bool adds_keys;

  /// Line of counts, of a query head of the call.
  __device__ __forceinline__ int64_t line_of(int batch, int head) const {
    return int64_t(batch) * key_heads + (head / group - first_key_head) / key_head_step;
  }
  __device__ __forceinline__ uint32_t first_entry(int64_t line) const {
    return uint32_t(line * members * num_queries) * kListedKeys;
  }
};

template <class Params>
__global__ void __launch_bounds__(kListThreads) count_keys(const __grid_constant__ Params params) {
  constexpr int kLanes = kListThreads / kListBlock;
  const int own = int(threadIdx.x) / kLanes, lane = int(threadIdx.x) % kLanes;
  const auto [block, head, batch] = params.blocks.own();
  const int first = block * kListBlock, row = first + own;
  if (row >= params.num_queries) return;
  const int64_t line = int64_t(batch) * params.heads + head, at = line * params.num_queries + row;
  const uint32_t count = params.lists.length(at);
  if (count == kUnlisted) {
    if (lane == 0) *params.any_unlisted = 1;
    return;
  }
  uint32_t* counts = params.counts + params.line_of(batch, head) * params.num_keys;
  const uint32_t begin = params.lists.begin(at);
  const int in_block = min(kListBlock, params.num_queries - first);
  for (uint32_t e = lane; e < count; e += kLanes)
    atomicAdd(counts + *params.lists.entry(at - own, in_block, begin + e), 1);
}

/// A block of threads a line: exclusive sums.
template <class Params>
__global__ void __launch_bounds__(1024) index_keys(const __grid_constant__ Params params) {
  __shared__ uint32_t sums[32];
  __shared__ uint32_t carried;
  const int64_t line = blockIdx.x;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (threadIdx.x == 0) carried = params.first_entry(line);
  for (int first = 0; first < params.num_keys; first += 1024) {
    const int key = first + int(threadIdx.x);
    const int64_t at = line * params.num_keys + key;
    const uint32_t mine = key < params.num_keys ? params.counts[at] : 0;
    uint32_t before = mine;
    SPLASH_UNROLL
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, before, step);
      if (lane >= step) before += other;
    }
    if (lane == 31) sums[warp] = before;
    __syncthreads();
    uint32_t base = carried, all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) base += sums[w];
      all += sums[w];
    }
    if (key < params.num_keys) {
      params.cursors[at] = params.begins[at] = base + before - mine;
      if (mine > kManyEntries) params.many[1 + atomicAdd(params.many, 1)] = uint32_t(at);
    }
    __syncthreads();
    if (threadIdx.x == 0) carried += all;
    __syncthreads();
  }
}

template <class Element>
__device__ __forceinline__ uint16_t bits_of(float value) {
  const Element element(value);
  return reinterpret_cast<const uint16_t&>(element);
}
template <class Element>
__device__ __forceinline__ float from_bits(uint16_t bits) {
  return float(reinterpret_cast<const Element&>(bits));
}

template <class Element, class Normalizer, int HeadDim>
__global__ void __launch_bounds__(RowLanes<Element, HeadDim>::kLanes* kListBlock)
    list_queries(const __grid_constant__ ListBackwardParams<Element, Normalizer> params) {
  using Lanes = RowLanes<Element, HeadDim>;
  constexpr int kLanes = Lanes::kLanes, kMost = kCandidates, kAhead = 4;
  extern __shared__ float memory[];  // scores, later P; dP, later dS; keys: (kListBlock, kMost) each
  const int own = int(threadIdx.x) / kLanes, lane = Lanes::lane();
  const auto [block, head, batch] = params.blocks.own();
  const int first = block * kListBlock, row = first + own;
  if (row >= params.num_queries) return;
  const int key_head = head / params.group;
  const int64_t at = (int64_t(batch) * params.heads + head) * params.num_queries + row;
  float* scores = memory + own * kMost;
  float* dp = scores + kListBlock * kMost;
  uint32_t* keys = reinterpret_cast<uint32_t*>(dp + kListBlock * kMost);
  const uint32_t listed = params.lists.length(at), begin = params.lists.begin(at);
  if (listed == kUnlisted) return;
  const int count = int(listed), in_block = min(kListBlock, params.num_queries - first);
  const Normalizer normalizer = normalizers::of_head(params.normalizer, head);
  for (int e = lane; e < count; e += kLanes) {
    const uint32_t* entry = params.lists.entry(at - own, in_block, begin + e);
    keys[e] = entry[0];
    scores[e] = __uint_as_float(entry[params.lists.rows]);
  }
  __syncwarp(Lanes::mask());

  const auto gathered = [&](const RowsOf<const Element>& rows, const auto& use) {
    const Element* base = rows.at(batch, key_head, 0);
    for (int e = 0; e < count; e += kAhead) {
      typename Lanes::Vector vectors[kAhead];
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (e + i < count) vectors[i] = Lanes::load(base + int64_t(keys[e + i]) * rows.stride[0], params.head_dim);
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i) use(e + i, vectors[i]);
    }
  };
  float x[8];
  const auto gradient = Lanes::load(params.grad_out.at(batch, head, row), params.head_dim);
  SPLASH_UNROLL
  for (int n = 0; n < 8; ++n) x[n] = gradient[n];
  gathered(params.v, [&](int e, const typename Lanes::Vector& value) {
    const float product = Lanes::sum(Lanes::dot(x, value));
    if (lane == 0 && e < count) dp[e] = product;
  });
  __syncwarp(Lanes::mask());

  const float statistic = params.statistic[at], dstatistic = params.grad_statistic ? params.grad_statistic[at] : 0;
  const int64_t rows = params.lists.rows;
  const auto saved = [&](int s) { return params.saved[s * rows + at]; };
  typename Normalizer::template Gradient<float, 1> state;
  ListFragment<kLanes> of_scores{scores, count, lane}, of_dp{dp, count, lane};
  state.load(normalizer, 0, statistic, saved);
  state.observe(normalizer, of_scores, of_dp);
  state.close(normalizer, 0, 0.0f, normalizers::kept_none<Normalizer>(statistic) ? 0.0f : dstatistic,
              typename Lanes::Reduce{});
  state.apply(normalizer, of_scores, of_dp);
  __syncwarp(Lanes::mask());
  uint32_t* cursors = params.cursors + params.line_of(batch, head) * params.num_keys;
  for (int e = lane; e < count; e += kLanes)
    params.entries[atomicAdd(cursors + keys[e], 1)] = {uint32_t(head * params.num_queries + row),
                                                       bits_of<Element>(scores[e]), bits_of<Element>(dp[e])};

  float sum[8] = {};
  gathered(params.k, [&](int e, const typename Lanes::Vector& key) {
    if (e < count) Lanes::add(sum, dp[e], key);
  });
  SPLASH_UNROLL
  for (int n = 0; n < 8; ++n) sum[n] *= params.scale;
  Lanes::store(params.grad_q.at(batch, head, row), params.head_dim, sum);
}

/// A warp a key: its entries by their rows, of which it has each once.
template <class Params>
__global__ void __launch_bounds__(kListThreads) order_keys(const __grid_constant__ Params params, int64_t keys) {
  const int64_t at = int64_t(blockIdx.x) * (kListThreads / 32) + threadIdx.x / 32;
  const int lane = int(threadIdx.x) % 32;
  if (at >= keys) return;
  const uint32_t begin = params.begins[at], count = params.counts[at];
  if (count > kManyEntries) return;
  for (uint32_t e = lane; e < count; e += 32) {
    const KeyEntry own = params.entries[begin + e];
    uint32_t rank = 0;
    for (uint32_t other = 0; other < count; ++other) rank += params.entries[begin + other].row < own.row;
    params.ordered[begin + rank] = own;
  }
}

/// The same of keys that have many: a bit for each row, and how many are set before it. A block of threads a key.
template <class Params>
__global__ void __launch_bounds__(kListThreads) order_many(const __grid_constant__ Params params) {
  constexpr int kWords = 1024;  // 32,768 rows at a time
  __shared__ uint32_t bits[kWords], before[kWords];
  __shared__ uint32_t done;
  for (uint32_t n = blockIdx.x; n < params.many[0]; n += gridDim.x) {
    const uint32_t at = params.many[1 + n], begin = params.begins[at], count = params.counts[at];
    if (threadIdx.x == 0) done = 0;
    for (uint32_t first = 0; first < uint32_t(params.heads * params.num_queries); first += 32 * kWords) {
      for (int w = threadIdx.x; w < kWords; w += kListThreads) bits[w] = 0;
      __syncthreads();
      for (uint32_t e = threadIdx.x; e < count; e += kListThreads) {
        const uint32_t row = params.entries[begin + e].row - first;
        if (row < 32 * kWords) atomicOr(&bits[row / 32], 1u << (row % 32));
      }
      __syncthreads();
      if (threadIdx.x < 32) {
        uint32_t sum = done;
        for (int w = 0; w < kWords; w += 32) {
          const uint32_t mine = __popc(bits[w + threadIdx.x]);
          uint32_t upto = mine;
          SPLASH_UNROLL
          for (int step = 1; step < 32; step *= 2) {
            const uint32_t other = __shfl_up_sync(~0u, upto, step);
            if (int(threadIdx.x) >= step) upto += other;
          }
          before[w + threadIdx.x] = sum + upto - mine;
          sum += __shfl_sync(~0u, upto, 31);
        }
        if (threadIdx.x == 0) done = sum;
      }
      __syncthreads();
      for (uint32_t e = threadIdx.x; e < count; e += kListThreads) {
        const KeyEntry own = params.entries[begin + e];
        const uint32_t row = own.row - first;
        if (row < 32 * kWords)
          params.ordered[begin + before[row / 32] + __popc(bits[row / 32] & ((1u << (row % 32)) - 1))] = own;
      }
      __syncthreads();
    }
  }
}

/// Lanes a key; the last `blocks_for_many` blocks of threads take the keys of many entries.
template <class Element, class Normalizer, int HeadDim>
__global__ void __launch_bounds__(kListThreads)
    list_keys(const __grid_constant__ ListBackwardParams<Element, Normalizer> params, int blocks_for_many) {
  using Lanes = RowLanes<Element, HeadDim>;
  constexpr int kLanes = Lanes::kLanes, kGroups = kListThreads / kLanes, kAhead = 4;
  __shared__ float sums[16][kListThreads];
  const KeyEntry* entries = params.ordered ? params.ordered : params.entries;
  const int own = int(threadIdx.x) / kLanes, lane = Lanes::lane();
  const int64_t lines_keys = int64_t(params.num_keys);
  float dk[8], dv[8];
  const auto gather = [&](int batch, uint32_t begin, uint32_t end, uint32_t step) {
    SPLASH_UNROLL
    for (int n = 0; n < 8; ++n) dk[n] = dv[n] = 0;
    for (uint32_t e = begin; e < end; e += kAhead * step) {
      KeyEntry found[kAhead];
      typename Lanes::Vector queries[kAhead], gradients[kAhead];
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (e + i * step >= end) continue;
        found[i] = entries[e + i * step];
        const int head = int(found[i].row / uint32_t(params.num_queries)),
                  row = int(found[i].row - uint32_t(head) * uint32_t(params.num_queries));
        queries[i] = Lanes::load(params.q.at(batch, head, row), params.head_dim);
        gradients[i] = Lanes::load(params.grad_out.at(batch, head, row), params.head_dim);
      }
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (e + i * step >= end) continue;
        Lanes::add(dk, from_bits<Element>(found[i].dscore), queries[i]);
        Lanes::add(dv, from_bits<Element>(found[i].p), gradients[i]);
      }
    }
  };
  const auto store = [&](int64_t line, int key) {
    const int batch = int(line / params.key_heads);
    const int head = params.first_key_head + int(line - int64_t(batch) * params.key_heads) * params.key_head_step;
    Element *to_k = params.grad_k.at(batch, head, key), *to_v = params.grad_v.at(batch, head, key);
    SPLASH_UNROLL
    for (int n = 0; n < 8; ++n) dk[n] *= params.scale;
    if (params.adds_keys) {
      const auto old_k = Lanes::load(to_k, params.head_dim), old_v = Lanes::load(to_v, params.head_dim);
      SPLASH_UNROLL
      for (int n = 0; n < 8; ++n) dk[n] += old_k[n], dv[n] += old_v[n];
    }
    Lanes::store(to_k, params.head_dim, dk);
    Lanes::store(to_v, params.head_dim, dv);
  };
  if (blockIdx.x < gridDim.x - blocks_for_many) {
    const int64_t blocks_a_line = (lines_keys + kGroups - 1) / kGroups;
    const int64_t line = blockIdx.x / blocks_a_line;
    const int key = int(blockIdx.x - line * blocks_a_line) * kGroups + own;
    if (key >= params.num_keys) return;
    const int64_t at = line * params.num_keys + key;
    const uint32_t begin = params.begins[at], count = params.counts[at];
    if (count > kManyEntries) return;
    gather(int(line / params.key_heads), begin, begin + count, 1);
    store(line, key);
    return;
  }
  for (uint32_t n = blockIdx.x - (gridDim.x - blocks_for_many); n < params.many[0]; n += blocks_for_many) {
    const uint32_t at = params.many[1 + n], begin = params.begins[at];
    const int64_t line = at / uint32_t(params.num_keys);
    gather(int(line / params.key_heads), begin + own, begin + params.counts[at], kGroups);
    SPLASH_UNROLL
    for (int d = 0; d < 8; ++d) sums[d][threadIdx.x] = dk[d], sums[8 + d][threadIdx.x] = dv[d];
    __syncthreads();
    for (int half = kListThreads / 2; half >= kLanes; half /= 2) {
      if (int(threadIdx.x) < half)
        for (int d = 0; d < 16; ++d) sums[d][threadIdx.x] += sums[d][threadIdx.x + half];
      __syncthreads();
    }
    if (int(threadIdx.x) < kLanes) {
      SPLASH_UNROLL
      for (int d = 0; d < 8; ++d) dk[d] = sums[d][lane], dv[d] = sums[8 + d][lane];
      store(line, int(at - line * params.num_keys));
    }
    __syncthreads();
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
