// LongNet's mixture on CUDA, and its gradient. A block has some tokens of one head, and first sorts out which parts
// have that head at all; a row is shared by as many threads as hold it, 16 bytes each. Every part's row is read
// (backward: written) once, the mixed row written (read) once.
#pragma once

#include "splash/kernel/row_groups.hpp"
#include "splash/patterns/longnet.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

inline constexpr int kLongNetThreads = 256;

/// kCapacity: parts that the parameters of a launch have room for.
template <int kCapacity>
struct LongNetParams {
  TensorView mixed;  ///< (B, heads, tokens): where a row begins
  int head_dim;
  int lanes;           ///< threads of a row, a power of two
  int tokens_a_block;  ///< a multiple of the rows that a block holds at once
  int blocks_a_head;
  int count;
  LongNetPart parts[kCapacity];
};

/// The parts that have the block's head, in their order.
template <class Head, int kCapacity>
struct LongNetHeads {
  alignas(16) unsigned char bytes[kCapacity * sizeof(Head)];
  int count;

  __device__ __forceinline__ Head& operator[](int n) { return reinterpret_cast<Head*>(bytes)[n]; }

  __device__ __forceinline__ void choose(const LongNetParams<kCapacity>& params, int batch, int head) {
    if (threadIdx.x < 32) {
      int before = 0;
      for (int first = 0; first < params.count; first += 32) {
        const int p = first + int(threadIdx.x);
        const bool has = p < params.count && Head::has(params.parts[p], head);
        const unsigned all = __ballot_sync(0xffffffffu, has);
        if (has) (*this)[before + __popc(all & ((1u << threadIdx.x) - 1))] = Head(params.parts[p], batch, head);
        before += __popc(all);
      }
      if (threadIdx.x == 0) count = before;
    }
    __syncthreads();
  }
};

/// body(token, column) for the thread's numbers of the block's rows.
template <int kVector, int kCapacity, class Body>
__device__ __forceinline__ void for_longnet_columns(const LongNetParams<kCapacity>& params, const Body& body) {
  const int begin = int(blockIdx.x) % params.blocks_a_head * params.tokens_a_block;
  const int rest = int(params.mixed.shape[2]) - begin;
  const int tokens = rest < params.tokens_a_block ? rest : params.tokens_a_block;
  const int lane = int(threadIdx.x) & (params.lanes - 1), rows = kLongNetThreads / params.lanes;
  for (int column = lane * kVector; column < params.head_dim; column += params.lanes * kVector)
    for (int row = int(threadIdx.x) / params.lanes; row < tokens; row += rows) body(begin + row, column);
}

template <class Element, int kVector, bool kForward, int kCapacity>
__global__ void __launch_bounds__(kLongNetThreads, 4)
    longnet_mixture(const __grid_constant__ LongNetParams<kCapacity> params) {
  using Real = RealOf<Element>;
  using Head = patterns::LongNetHead<Element, Real>;
  struct alignas(kVector * sizeof(Element)) Vector {
    Element values[kVector];
  };
  __shared__ LongNetHeads<Head, kCapacity> heads;
  const int of_batch = int(blockIdx.x) / params.blocks_a_head;
  const int batch = of_batch / int(params.mixed.shape[1]), head = of_batch % int(params.mixed.shape[1]);
  heads.choose(params, batch, head);
  Element* mixed =
      static_cast<Element*>(params.mixed.data) + batch * params.mixed.stride[0] + head * params.mixed.stride[1];
  const auto at = [&](Element* rows, int64_t row, int column) {
    return reinterpret_cast<Vector*>(rows + row + column);
  };
  const auto share = [](Real lse, Real largest) { return math::exp2((lse - largest) * Real(math::kLog2E)); };

  if constexpr (kForward) {
    for_longnet_columns<kVector>(params, [&](int token, int column) {
      Real largest = -math::kInfinity<Real>, sum = 0, total[kVector] = {};
      for (int n = 0; n < heads.count; ++n) {
        const Head& part = heads[n];
        const int place = part.tokens.place(token);
        if (place < 0) continue;
        const Vector row = *at(part.rows, place * part.row_stride, column);
        const Real lse = part.lse[place * part.lse_stride];
        if (lse == -math::kInfinity<Real>) continue;
        const Real before = largest;
        largest = math::max(largest, lse);
        const Real old = share(before, largest), weight = share(lse, largest);
        sum = sum * old + weight;
        SPLASH_UNROLL
        for (int v = 0; v < kVector; ++v) total[v] = total[v] * old + weight * Real(row.values[v]);
      }
      const Real factor = sum == Real(0) ? Real(0) : Real(1) / sum;
      Vector row;
      SPLASH_UNROLL
      for (int v = 0; v < kVector; ++v) row.values[v] = Element(total[v] * factor);
      *at(mixed, token * params.mixed.stride[2], column) = row;
    });
  } else {
    for_longnet_columns<kVector>(params, [&](int token, int column) {
      const Vector grad = *at(mixed, token * params.mixed.stride[2], column);
      Real largest = -math::kInfinity<Real>, sum = 0;
      const auto for_parts = [&](const auto& body) {
        for (int n = 0; n < heads.count; ++n) {
          const Head& part = heads[n];
          const int place = part.tokens.place(token);
          if (place >= 0) body(part, place, part.lse[place * part.lse_stride]);
        }
      };
      for_parts([&](const Head&, int, Real lse) {
        if (lse == -math::kInfinity<Real>) return;
        const Real before = largest;
        largest = math::max(largest, lse);
        sum = sum * share(before, largest) + share(lse, largest);
      });
      for_parts([&](const Head& part, int place, Real lse) {
        const bool empty = lse == -math::kInfinity<Real>;
        const Real weight = share(lse, largest) / sum;
        Vector row;
        SPLASH_UNROLL
        for (int v = 0; v < kVector; ++v) row.values[v] = Element(empty ? Real(0) : weight * Real(grad.values[v]));
        *at(part.rows, place * part.row_stride, column) = row;
      });
    });
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
