// The forward of rows whose candidates are known: their scores anew, the weights, O, and the list of keys with weight.
//
// Plain CUDA, a row by the lanes that hold one row of k. The scores of a row's candidates lie in shared memory, where a
// normalizer sweeps over them as over any others.
#pragma once

#include "splash/core/candidates.hpp"
#include "splash/core/row_lists.hpp"
#include "splash/kernel/row_lanes.hpp"
#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element, class Normalizer>
struct CandidateRowsParams {
  RowsOf<const Element> q, k, v;
  RowsOf<Element> out;
  CandidateLists candidates;
  float* statistic;  ///< (B, Hq, Nq)
  float* saved;      ///< (kListPlanes, B, Hq, Nq)
  int64_t rows;      ///< B * Hq * Nq
  Normalizer normalizer;
  float sign;
  int heads, group, num_queries, head_dim;
  RowBlocks blocks;
};

template <class Element, class Normalizer, int HeadDim>
__global__ void __launch_bounds__(RowLanes<Element, HeadDim>::kLanes* kListBlock)
    candidate_rows(const __grid_constant__ CandidateRowsParams<Element, Normalizer> params) {
  using Lanes = RowLanes<Element, HeadDim>;
  constexpr int kLanes = Lanes::kLanes, kRows = kListBlock, kAhead = 4;
  extern __shared__ float memory[];  // scores, weights, keys: (kRows, kCandidates) each
  __shared__ uint32_t kept_counts[kRows];
  const int own = int(threadIdx.x) / kLanes, lane = Lanes::lane();
  const auto [block, head, batch] = params.blocks.own();
  const int row = block * kRows + own, key_head = head / params.group;
  const bool inside = row < params.num_queries;
  const int64_t at = (int64_t(batch) * params.heads + head) * params.num_queries + row;
  float* scores = memory + own * kCandidates;
  float* weights = scores + kRows * kCandidates;
  uint32_t* keys = reinterpret_cast<uint32_t*>(weights + kRows * kCandidates);
  const Normalizer normalizer = normalizers::of_head(params.normalizer, head);

  uint32_t parts = 0;
  if (inside) parts = *reinterpret_cast<const uint32_t*>(params.candidates.counts + at * kCandidateParts);
  bool listed = inside;
  int count = 0;
  SPLASH_UNROLL
  for (int part = 0; part < kCandidateParts; ++part) {
    const unsigned of_part = parts >> (8 * part) & 255;
    listed = listed && of_part != kTooMany;
    count += int(of_part);
  }
  if (!listed) count = 0;

  float x[8];
  if (count > 0) {
    const auto query = Lanes::load(params.q.at(batch, head, row), params.head_dim);
    SPLASH_UNROLL
    for (int n = 0; n < 8; ++n) x[n] = query[n] * params.sign;
    const uint32_t* from = params.candidates.keys + at;
    for (int e = lane; e < count; e += kLanes) {
      int part = 0, in_part = e;
      SPLASH_UNROLL
      for (int p = 0; p < kCandidateParts - 1; ++p) {
        const int of_part = int(parts >> (8 * p) & 255);
        if (part == p && in_part >= of_part) ++part, in_part -= of_part;
      }
      keys[e] = from[candidate_place(part, in_part) * params.rows];
    }
    __syncwarp(Lanes::mask());
    const Element* base = params.k.at(batch, key_head, 0);
    for (int e = 0; e < count; e += kAhead) {
      typename Lanes::Vector vectors[kAhead];
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (e + i < count) vectors[i] = Lanes::load(base + int64_t(keys[e + i]) * params.k.stride[0], params.head_dim);
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const float score = Lanes::sum(Lanes::dot(x, vectors[i]));
        if (lane == 0 && e + i < count) scores[e + i] = score;
      }
    }
    __syncwarp(Lanes::mask());
  }

  typename Normalizer::template Rows<float, 1> state;
  const typename Lanes::Reduce reduce;
  if (count > 0) {
    ListFragment<kLanes> fragment{scores, count, lane};
    do {
      state.observe(normalizer, fragment);
    } while (state.refine(normalizer, reduce));
  }
  for (int e = lane; e < count; e += kLanes) weights[e] = scores[e];
  float factor = 0;
  if (count > 0) {
    ListFragment<kLanes> fragment{weights, count, lane};
    state.weigh(normalizer, fragment);
    state.finish(normalizer, reduce);
    factor = state.output_factor(normalizer, 0);
  }
  __syncwarp(Lanes::mask());
  // What has weight moves to the front, in its order.
  int kept = 0;
  for (int e = 0; e < count; e += kLanes) {
    const bool mine = e + lane < count;
    const float weight = mine ? weights[e + lane] : 0.0f, score = mine ? scores[e + lane] : 0.0f;
    const uint32_t key = mine ? keys[e + lane] : 0;
    const unsigned votes = Lanes::ballot(mine && !(weight <= 0));
    if (votes >> lane & 1) {
      const int to = kept + __popc(votes & ((1u << lane) - 1));
      weights[to] = weight;
      scores[to] = score;
      keys[to] = key;
    }
    kept += __popc(votes);
    __syncwarp(Lanes::mask());
  }

  float sum[8] = {};
  if (kept > 0) {
    const Element* base = params.v.at(batch, key_head, 0);
    for (int e = 0; e < kept; e += kAhead) {
      typename Lanes::Vector vectors[kAhead];
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (e + i < kept) vectors[i] = Lanes::load(base + int64_t(keys[e + i]) * params.v.stride[0], params.head_dim);
      SPLASH_UNROLL
      for (int i = 0; i < kAhead; ++i)
        if (e + i < kept) Lanes::add(sum, weights[e + i], vectors[i]);
    }
  }
  SPLASH_UNROLL
  for (int n = 0; n < 8; ++n) sum[n] *= factor;
  if (listed) Lanes::store(params.out.at(batch, head, row), params.head_dim, sum);

  if (lane == 0) kept_counts[own] = uint32_t(kept);
  __syncthreads();
  uint32_t begin = 0;
  for (int r = 0; r < own; ++r) begin += kept_counts[r];
  const int in_block = min(kRows, params.num_queries - block * kRows);
  const bool fits = listed && begin + kept <= uint32_t(in_block) * kListedKeys;
  if (!inside) return;
  const RowLists lists{reinterpret_cast<uint32_t*>(params.saved), params.rows};
  if (fits)
    for (int e = lane; e < kept; e += kLanes) {
      uint32_t* entry = lists.entry(at - own, in_block, begin + e);
      entry[0] = keys[e];
      entry[params.rows] = __float_as_uint(scores[e]);
    }
  if (lane == 0) {
    lists.begin(at) = begin;
    lists.length(at) = fits ? uint32_t(kept) : kUnlisted;
    if (listed) {
      params.statistic[at] = count > 0 ? state.statistic(normalizer, 0) : Normalizer::template empty_statistic<float>();
      SPLASH_UNROLL
      for (int n = 0; n < Normalizer::kSaved; ++n)
        params.saved[n * params.rows + at] = count > 0 ? state.saved(0, n) : 0.0f;
    }
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
