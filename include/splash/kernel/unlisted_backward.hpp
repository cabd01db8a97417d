// The backward of rows that have weights and no list, beside list_backward.hpp: their scores formed anew, key by key.
//
// Plain CUDA for any pattern. Such rows are few or none, so that nothing but they costs anything; where all rows are
// such, these kernels are right, and slow.
#pragma once

#include "splash/collective/work.hpp"
#include "splash/kernel/list_backward.hpp"
#include "splash/patterns/transpose.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Pattern, class Element, class Normalizer>
struct UnlistedParams {
  ListBackwardParams<Element, Normalizer> lists;
  Pattern pattern;
  collective::Geometry queries, keys;  ///< rows are queries, or keys
  collective::Schedule by_queries, by_keys;
  float* deltas;  ///< (B, Hq, Nq)
  float sign;     ///< of the scale
};

/// A fragment of one number.
struct Single {
  float value;
  static constexpr int columns() { return 1; }
  __device__ __forceinline__ float get(int, int) const { return value; }
  __device__ __forceinline__ void set(int, int, float to) { value = to; }
};

/// Of a block of threads, the first lane of each `Lanes`.
template <int Lanes>
struct BlockReduce {
  float* room;  ///< kListThreads / 32 floats

  __device__ float sum(float value) const {
    value = threadIdx.x % Lanes == 0 ? value : 0.0f;
    SPLASH_UNROLL
    for (int step = 1; step < 32; step *= 2) value += __shfl_xor_sync(~0u, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    float all = 0;
    for (int w = 0; w < kListThreads / 32; ++w) all += room[w];
    return all;
  }
  __device__ float max(float value) const {
    SPLASH_UNROLL
    for (int step = 1; step < 32; step *= 2) value = math::max(value, __shfl_xor_sync(~0u, value, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    float all = room[0];
    for (int w = 1; w < kListThreads / 32; ++w) all = math::max(all, room[w]);
    return all;
  }
};

/// A block of threads a row: delta and dQ.
template <class Pattern, class Element, class Normalizer, int HeadDim>
__global__ void __launch_bounds__(kListThreads, 2)
    unlisted_queries(const __grid_constant__ UnlistedParams<Pattern, Element, Normalizer> params) {
  using Lanes = RowLanes<Element, HeadDim>;
  constexpr int kLanes = Lanes::kLanes, kGroups = kListThreads / kLanes;
  __shared__ collective::WorkTile work;
  __shared__ float room[kListThreads / 32], sums[8][kListThreads];
  const auto& to = params.lists;
  if (!*to.any_unlisted) return;
  const int own = int(threadIdx.x) / kLanes, lane = Lanes::lane();
  for (int item = int(blockIdx.x); item < params.by_queries.items; item += int(gridDim.x)) {
    __syncthreads();
    if (threadIdx.x == 0) collective::make_work_tile(work, params.queries, params.by_queries, kListBlock, item);
    __syncthreads();
    const Frame& frame = work.frame;
    const int head = frame.head, key_head = head / to.group,
              batch = params.queries.packed_sequences() ? 0 : frame.batch;
    const Normalizer normalizer = normalizers::of_head(to.normalizer, head);
#pragma unroll 1
    for (int row = work.row_begin; row < min(work.row_begin + kListBlock, frame.num_queries); ++row) {
      const int64_t at = collective::query_at(params.queries, frame, head, work.queries, row);
      if (to.lists.length(at) != kUnlisted) continue;
      const int64_t in_tensor = collective::row_at(params.queries, work.queries, row);
      const auto query = Lanes::load(to.q.at(batch, head, in_tensor), to.head_dim),
                 gradient = Lanes::load(to.grad_out.at(batch, head, in_tensor), to.head_dim);
      float x[8], y[8], sum[8] = {};
      SPLASH_UNROLL
      for (int n = 0; n < 8; ++n) x[n] = query[n] * params.sign, y[n] = gradient[n];
      const float statistic = to.statistic[at];
      typename Normalizer::template Gradient<float, 1> state;
      state.load(normalizer, 0, statistic, [&](int s) { return to.saved[s * to.lists.rows + at]; });
      // First the sums that delta is made of, then dS: one copy of the pattern's code serves both.
#pragma unroll 1
      for (int pass = 0; pass < 2; ++pass) {
#pragma unroll 1
        for (int first = 0;; first += kGroups) {
          first = params.pattern.next_column(frame, row, row + 1, first);
          if (first >= frame.num_keys) break;
          const int column = first + own;
          const bool kept = column < frame.num_keys && params.pattern.keep(frame, row, column);
          typename Lanes::Vector key, value;
          if (kept) {
            const int64_t of_key = collective::column_at(params.queries, work.keys, column);
            key = Lanes::load(to.k.at(batch, key_head, of_key), to.head_dim);
            value = Lanes::load(to.v.at(batch, key_head, of_key), to.head_dim);
          }
          Single score{Lanes::sum(Lanes::dot(x, key))}, dp{Lanes::sum(Lanes::dot(y, value))};
          if (!kept) score.value = -math::kInfinity<float>, dp.value = 0;
          if (pass == 0) {
            state.observe(normalizer, score, dp);
          } else {
            state.apply(normalizer, score, dp);
            Lanes::add(sum, dp.value, key);
          }
        }
        if (pass == 0)
          state.close(normalizer, 0, 0.0f, to.grad_statistic ? to.grad_statistic[at] : 0.0f, BlockReduce<kLanes>{room});
      }
      SPLASH_UNROLL
      for (int n = 0; n < 8; ++n) sums[n][threadIdx.x] = sum[n];
      __syncthreads();
      for (int half = kListThreads / 2; half >= kLanes; half /= 2) {
        if (int(threadIdx.x) < half)
          for (int n = 0; n < 8; ++n) sums[n][threadIdx.x] += sums[n][threadIdx.x + half];
        __syncthreads();
      }
      if (int(threadIdx.x) < kLanes) {
        for (int n = 0; n < 8; ++n) sum[n] = sums[n][lane] * to.scale;
        Lanes::store(to.grad_q.at(batch, head, in_tensor), to.head_dim, sum);
      }
      if (threadIdx.x == 0) params.deltas[at] = state.delta[0];
      __syncthreads();
    }
  }
}

/// Lanes a key: adds to dK and dV.
template <class Pattern, class Element, class Normalizer, int HeadDim>
__global__ void __launch_bounds__(kListThreads, 2)
    unlisted_keys(const __grid_constant__ UnlistedParams<Pattern, Element, Normalizer> params) {
  using Lanes = RowLanes<Element, HeadDim>;
  constexpr int kLanes = Lanes::kLanes, kGroups = kListThreads / kLanes;
  __shared__ collective::WorkTile work;
  __shared__ int found[kListThreads];
  __shared__ int count;
  const auto& to = params.lists;
  if (!*to.any_unlisted) return;
  const int own = int(threadIdx.x) / kLanes;
  const collective::Geometry& geometry = params.keys;
  for (int item = int(blockIdx.x); item < params.by_keys.items; item += int(gridDim.x)) {
    __syncthreads();
    if (threadIdx.x == 0) collective::make_work_tile(work, geometry, params.by_keys, kGroups, item);
    __syncthreads();
    const Frame& frame = work.frame;  // its queries are keys
    const int key_head = frame.head / geometry.group, batch = geometry.packed_sequences() ? 0 : frame.batch;
    const int row = work.row_begin + own;
    const bool real = row < frame.num_queries;
    typename Lanes::Vector key, value;
    const int64_t of_key = collective::row_at(geometry, work.queries, min(row, max(work.row_count - 1, 0)));
    if (real) {
      key = Lanes::load(to.k.at(batch, key_head, of_key), to.head_dim);
      value = Lanes::load(to.v.at(batch, key_head, of_key), to.head_dim);
    }
    float dk[8] = {}, dv[8] = {};
    bool any = false;
#pragma unroll 1
    for (int member = 0; member < geometry.members_end; member += geometry.member_step) {
      const patterns::KeyMajor<Pattern> view{params.pattern, member};
      const int head = frame.head + member;
      const Normalizer normalizer = normalizers::of_head(to.normalizer, head);
#pragma unroll 1
      for (int first = 0; first < frame.num_keys; first += kListThreads) {
        __syncthreads();
        if (threadIdx.x == 0) count = 0;
        __syncthreads();
        // In order, whatever the order of threads: a warp after the other.
        const int column = first + int(threadIdx.x);
        const bool mine = column < frame.num_keys &&
                          to.lists.length(collective::query_at(geometry, frame, head, work.keys, column)) == kUnlisted;
        const unsigned votes = __ballot_sync(~0u, mine);
        for (int w = 0; w < kListThreads / 32; ++w) {
          if (int(threadIdx.x) / 32 == w) {
            const int before = count;
            __syncwarp();
            if (mine) found[before + __popc(votes & ((1u << (threadIdx.x % 32)) - 1))] = column;
            if (threadIdx.x % 32 == 0) count = before + __popc(votes);
          }
          __syncthreads();
        }
#pragma unroll 1
        for (int n = 0; n < count; ++n) {
          const int query = found[n];
          if (!real || !view.keep(frame, row, query)) continue;
          const int64_t at = collective::query_at(geometry, frame, head, work.keys, query);
          const int64_t line = int64_t(batch) * to.heads + head, in_tensor = at - line * to.num_queries;
          const auto q = Lanes::load(to.q.at(batch, head, in_tensor), to.head_dim),
                     gradient = Lanes::load(to.grad_out.at(batch, head, in_tensor), to.head_dim);
          float x[8], y[8];
          SPLASH_UNROLL
          for (int i = 0; i < 8; ++i) x[i] = q[i] * params.sign, y[i] = gradient[i];
          Single score{Lanes::sum(Lanes::dot(x, key))}, dp{Lanes::sum(Lanes::dot(y, value))};
          typename Normalizer::template Gradient<float, 1> state;
          state.load(normalizer, 0, to.statistic[at], [&](int s) { return to.saved[s * to.lists.rows + at]; });
          state.delta[0] = params.deltas[at];
          state.apply(normalizer, score, dp);
          Lanes::add(dk, dp.value, q);
          Lanes::add(dv, score.value, gradient);
          any = true;
        }
      }
    }
    if (!any) continue;
    Element *to_k = to.grad_k.at(batch, key_head, of_key), *to_v = to.grad_v.at(batch, key_head, of_key);
    const auto old_k = Lanes::load(to_k, to.head_dim), old_v = Lanes::load(to_v, to.head_dim);
    SPLASH_UNROLL
    for (int n = 0; n < 8; ++n) dk[n] = dk[n] * to.scale + old_k[n], dv[n] += old_v[n];
    Lanes::store(to_k, to.head_dim, dk);
    Lanes::store(to_v, to.head_dim, dv);
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
