// LongNet's mixture on CUDA, and its gradient. A block has some tokens of one head, and first sorts out which parts
// have that head at all; a row is shared by as many threads as hold it, 16 bytes each. Every part's row is read
// (backward: written) once, the mixed row written (read) once.
#pragma once

#include "splash/kernel/row_groups.hpp"
#include "splash/patterns/longnet.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

inline constexpr int kLongNetThreads = 256;
inline constexpr int kLongNetRows = 2;  ///< that a thread has under way at once

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

/// body(tokens, column) for the thread's numbers of the block's rows, kLongNetRows at once; token -1: there is none.
template <int kVector, int kCapacity, class Body>
__device__ __forceinline__ void for_longnet_columns(const LongNetParams<kCapacity>& params, const Body& body) {
  const int begin = int(blockIdx.x) % params.blocks_a_head * params.tokens_a_block;
  const int rest = int(params.mixed.shape[2]) - begin;
  const int count = rest < params.tokens_a_block ? rest : params.tokens_a_block;
  const int lane = int(threadIdx.x) & (params.lanes - 1), rows = kLongNetThreads / params.lanes;
  for (int column = lane * kVector; column < params.head_dim; column += params.lanes * kVector) {
    SPLASH_NO_UNROLL
    for (int row = int(threadIdx.x) / params.lanes; row < count; row += kLongNetRows * rows) {
      int tokens[kLongNetRows];
      SPLASH_UNROLL
      for (int r = 0; r < kLongNetRows; ++r) tokens[r] = row + r * rows < count ? begin + row + r * rows : -1;
      body(tokens, column);
    }
  }
}

/// The running softmax over the parts that have a token.
template <class Real>
struct LongNetSum {
  Real largest = -math::kInfinity<Real>, sum = 0;

  static __device__ __forceinline__ Real share(Real lse, Real largest) {
    return math::exp2((lse - largest) * Real(math::kLog2E));
  }
  /// The factor of what was summed up before; lse is not -inf.
  __device__ __forceinline__ Real rescale(Real lse) {
    const Real before = largest;
    largest = math::max(largest, lse);
    const Real factor = share(before, largest);
    sum = sum * factor + share(lse, largest);
    return factor;
  }
  __device__ __forceinline__ Real inverse() const { return sum == Real(0) ? Real(0) : Real(1) / sum; }
};

template <class Element, int kVector, bool kForward, int kCapacity>
__global__ void __launch_bounds__(kLongNetThreads, 4)
    longnet_mixture(const __grid_constant__ LongNetParams<kCapacity> params) {
  using Real = RealOf<Element>;
  using Head = patterns::LongNetHead<Element, Real>;
  using Sum = LongNetSum<Real>;
  struct alignas(kVector * sizeof(Element)) Vector {
    Element values[kVector];
  };
  constexpr int R = kLongNetRows;
  __shared__ LongNetHeads<Head, kCapacity> heads;
  const int of_batch = int(blockIdx.x) / params.blocks_a_head;
  const int batch = of_batch / int(params.mixed.shape[1]), head = of_batch % int(params.mixed.shape[1]);
  heads.choose(params, batch, head);
  Element* mixed =
      static_cast<Element*>(params.mixed.data) + batch * params.mixed.stride[0] + head * params.mixed.stride[1];
  const int64_t mixed_stride = params.mixed.stride[2];
  const auto at = [](Element* rows, int64_t row, int column) { return reinterpret_cast<Vector*>(rows + row + column); };
  /// The places of the tokens in a part and their log-sum-exps, -1 and -inf where it has none.
  const auto find = [](const Head& part, const int (&tokens)[R], int (&places)[R], Real(&lse)[R]) {
    SPLASH_UNROLL
    for (int r = 0; r < R; ++r) {
      places[r] = tokens[r] < 0 ? -1 : part.tokens.place(tokens[r]);
      lse[r] = places[r] < 0 ? -math::kInfinity<Real> : part.lse[places[r] * part.lse_stride];
    }
  };

  if constexpr (kForward) {
    for_longnet_columns<kVector>(params, [&](const int (&tokens)[R], int column) {
      Sum sums[R];
      Real total[R][kVector] = {};
      for (int n = 0; n < heads.count; ++n) {
        const Head& part = heads[n];
        int places[R];
        Real lse[R];
        Vector rows[R];
        find(part, tokens, places, lse);
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r)
          if (places[r] >= 0) rows[r] = *at(part.rows, places[r] * part.row_stride, column);
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          if (lse[r] == -math::kInfinity<Real>) continue;
          const Real old = sums[r].rescale(lse[r]), weight = Sum::share(lse[r], sums[r].largest);
          SPLASH_UNROLL
          for (int v = 0; v < kVector; ++v) total[r][v] = total[r][v] * old + weight * Real(rows[r].values[v]);
        }
      }
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        if (tokens[r] < 0) continue;
        const Real factor = sums[r].inverse();
        Vector row;
        SPLASH_UNROLL
        for (int v = 0; v < kVector; ++v) row.values[v] = Element(total[r][v] * factor);
        *at(mixed, tokens[r] * mixed_stride, column) = row;
      }
    });
  } else {
    for_longnet_columns<kVector>(params, [&](const int (&tokens)[R], int column) {
      Vector grads[R];
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r)
        if (tokens[r] >= 0) grads[r] = *at(mixed, tokens[r] * mixed_stride, column);
      Sum sums[R];
      int places[R];
      Real lse[R];
      for (int n = 0; n < heads.count; ++n) {
        find(heads[n], tokens, places, lse);
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r)
          if (lse[r] != -math::kInfinity<Real>) sums[r].rescale(lse[r]);
      }
      for (int n = 0; n < heads.count; ++n) {
        const Head& part = heads[n];
        find(part, tokens, places, lse);
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          if (places[r] < 0) continue;
          const bool empty = lse[r] == -math::kInfinity<Real>;
          const Real weight = Sum::share(lse[r], sums[r].largest) * sums[r].inverse();
          Vector row;
          SPLASH_UNROLL
          for (int v = 0; v < kVector; ++v)
            row.values[v] = Element(empty ? Real(0) : weight * Real(grads[r].values[v]));
          *at(part.rows, places[r] * part.row_stride, column) = row;
        }
      }
    });
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
