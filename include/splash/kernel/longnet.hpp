// LongNet's mixture on CUDA, and its gradient. A block has some tokens of one head, and first sorts out which parts
// have that head at all; a row is shared by as many threads as hold it, 16 bytes each. Every part's row is read
// (backward: written) once, the mixed row written (read) once.
#pragma once

#include "splash/kernel/row_groups.hpp"
#include "splash/patterns/longnet.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

inline constexpr int kLongNetThreads = 256;
inline constexpr int kLongNetPieces = 2;  ///< of a row that a thread has: what it finds out of a token serves them all

/// kCapacity: parts that the parameters of a launch have room for.
template <int kCapacity>
struct LongNetParams {
  TensorView mixed;  ///< (B, heads, tokens): where a row begins
  int head_dim;
  int lanes;   ///< threads of a row, a power of two
  int passes;  ///< rows that a thread has, one after the other
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

/// body(token, column) for the rows of the block; the thread has the numbers at column + n * step of them, kVector
/// each. Neighbouring rows of a warp are `passes` tokens apart, a multiple of 16 where there are many: then most rates
/// have all of them or none.
template <int kVector, int kCapacity, class Body>
__device__ __forceinline__ void for_longnet_rows(const LongNetParams<kCapacity>& params, const Body& body) {
  const int rows = kLongNetThreads / params.lanes, lane = int(threadIdx.x) & (params.lanes - 1);
  const int begin = (int(blockIdx.x) % params.blocks_a_head * rows + int(threadIdx.x) / params.lanes) * params.passes;
  const int rest = int(params.mixed.shape[2]) - begin;
  const int end = begin + (rest < params.passes ? rest : params.passes), step = params.lanes * kVector;
  for (int column = lane * kVector; column < params.head_dim; column += kLongNetPieces * step) {
    SPLASH_NO_UNROLL
    for (int token = begin; token < end; ++token) body(token, column, step);
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
__global__ void __launch_bounds__(kLongNetThreads, 3)
    longnet_mixture(const __grid_constant__ LongNetParams<kCapacity> params) {
  using Real = RealOf<Element>;
  using Head = patterns::LongNetHead<Element, Real>;
  using Sum = LongNetSum<Real>;
  struct alignas(kVector * sizeof(Element)) Vector {
    Element values[kVector];
  };
  constexpr int N = kLongNetPieces;
  __shared__ LongNetHeads<Head, kCapacity> heads;
  const int of_batch = int(blockIdx.x) / params.blocks_a_head;
  const int batch = of_batch / int(params.mixed.shape[1]), head = of_batch % int(params.mixed.shape[1]);
  heads.choose(params, batch, head);
  Element* mixed =
      static_cast<Element*>(params.mixed.data) + batch * params.mixed.stride[0] + head * params.mixed.stride[1];
  const int64_t mixed_stride = params.mixed.stride[2];
  const int head_dim = params.head_dim;
  const auto load = [&](Vector(&pieces)[N], const Element* row, int column, int step) {
    SPLASH_UNROLL
    for (int n = 0; n < N; ++n)
      if (column + n * step < head_dim) pieces[n] = *reinterpret_cast<const Vector*>(row + column + n * step);
  };
  /// A row of numbers value(piece, place in it).
  const auto store = [&](Element* row, int column, int step, const auto& value) {
    SPLASH_UNROLL
    for (int n = 0; n < N; ++n) {
      if (column + n * step >= head_dim) continue;
      Vector piece;
      SPLASH_UNROLL
      for (int v = 0; v < kVector; ++v) piece.values[v] = Element(value(n, v));
      *reinterpret_cast<Vector*>(row + column + n * step) = piece;
    }
  };
  /// body(row, log-sum-exp) of each part that has the token.
  const auto for_parts = [&](int token, const auto& body) {
    SPLASH_NO_UNROLL
    for (int n = 0; n < heads.count; ++n) {
      const Head& part = heads[n];
      const int place = part.tokens.place(token);
      if (place >= 0) body(part.rows + place * part.row_stride, part.lse[place * part.lse_stride]);
    }
  };

  if constexpr (kForward) {
    for_longnet_rows<kVector>(params, [&](int token, int column, int step) {
      Sum sum;
      Real total[N][kVector] = {};
      for_parts(token, [&](const Element* row, Real lse) {
        Vector pieces[N];
        load(pieces, row, column, step);
        if (lse == -math::kInfinity<Real>) return;
        const bool first = sum.sum == Real(0);
        const Real old = sum.rescale(lse), weight = Sum::share(lse, sum.largest);
        SPLASH_UNROLL
        for (int n = 0; n < N; ++n) {
          SPLASH_UNROLL
          for (int v = 0; v < kVector; ++v) {
            const Real value = weight * Real(pieces[n].values[v]);
            total[n][v] = first ? value : total[n][v] * old + value;
          }
        }
      });
      const Real factor = sum.inverse();
      store(mixed + token * mixed_stride, column, step, [&](int n, int v) { return total[n][v] * factor; });
    });
  } else {
    for_longnet_rows<kVector>(params, [&](int token, int column, int step) {
      Vector grad[N];
      load(grad, mixed + token * mixed_stride, column, step);
      Sum sum;
      for_parts(token, [&](const Element*, Real lse) {
        if (lse != -math::kInfinity<Real>) sum.rescale(lse);
      });
      const Real factor = sum.inverse();
      for_parts(token, [&](Element* row, Real lse) {
        const bool empty = lse == -math::kInfinity<Real>;
        const Real weight = Sum::share(lse, sum.largest) * factor;
        store(row, column, step, [&](int n, int v) { return empty ? Real(0) : weight * Real(grad[n].values[v]); });
      });
    });
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
