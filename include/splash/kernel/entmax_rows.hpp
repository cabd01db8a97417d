// Entmax along rows of neighbouring numbers on the GPU, and its gradient.
//
// A group of threads shares a row: 8 or 32 lanes of a warp, or a whole block. Rows that fit are held in registers, read
// once and written once. Longer ones are looked at several times, in shared memory where they fit, else in memory.
//
// Forward: the largest value of each thread first; their tau bounds the row's from below and is nearly it
// (normalizers/entmax_rows.hpp), so that two or three sweeps over the row are left.
// Backward: dx = u (g - sum(u g) / sum(u)), u = p^(2 - alpha); g is read only where p is not 0, mostly nowhere.
#pragma once

#include "splash/kernel/row_groups.hpp"
#include "splash/normalizers/entmax_rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element, class Exponent>
struct EntmaxRowsParams {
  using Real = RealOf<Element>;
  normalizers::Entmax<Real, Exponent> normalizer;
  const Element* in;    ///< x, or p in the backward
  const Element* grad;  ///< in the backward
  Element* out;
  int64_t rows;
  int64_t length;
  bool aligned;  ///< rows start at multiples of 16 bytes
};

/// Values in registers as a fragment.
template <class Real, int N>
struct RegisterFragment {
  const Real (&values)[N];
  static constexpr SPLASH_HD int columns() { return N; }
  SPLASH_HD Real get(int, int c) const { return values[c]; }
};

template <class Real, int N>
__device__ __forceinline__ Real largest(Real max, const Real (&values)[N]) {
  SPLASH_UNROLL
  for (int v = 0; v < N; ++v) max = max_or_nan(max, values[v]);
  return max;
}

/// Starts the state of a row from the largest value that each thread saw.
template <class Exponent, class Real, class Group>
__device__ __forceinline__ auto start_row(const normalizers::Entmax<Real, Exponent>& normalizer, Real max,
                                          const Group& group) {
  normalizers::EntmaxRow<Real, Exponent, Real> row(normalizer, max, group);
  const Real maxima[1] = {max};
  row.solve([&](const auto& observe) { observe(RegisterFragment<Real, 1>{maxima}); }, group);
  return row;
}

/// Blocks of a multiprocessor: 64 registers a thread, 128 where sums are double.
template <class Element>
constexpr int row_blocks(int threads) {
  return (sizeof(RealOf<Element>) == 4 ? 1024 : 512) / threads;
}
#define SPLASH_ROW_KERNEL(threads)                                                 \
  __global__ void __launch_bounds__((threads) < kRowBlock ? kRowBlock : (threads), \
                                    row_blocks<Element>((threads) < kRowBlock ? kRowBlock : (threads)))

template <class Element, class Exponent, int kThreads, int kValues>
SPLASH_ROW_KERNEL(kThreads)
entmax_rows_forward(const EntmaxRowsParams<Element, Exponent> params) {
  using Real = RealOf<Element>;
  constexpr int kChunks = kValues / kVectorLength<Element>;
  __shared__ typename RowGroup<Real, kThreads>::Storage storage;
  const RowGroup<Real, kThreads> group(storage);
  const int64_t first = group.row() * params.length;
  const RowAccess<Element, kThreads, int> access{group.row() < params.rows ? int(params.length) : 0, params.aligned,
                                                 group.rank()};
  Real values[kValues];
  access.template load<kChunks>(params.in + first, 0, -math::kInfinity<Real>, values);
  auto row = start_row<Exponent>(params.normalizer, largest(values[0], values), group);
  const Real max = row.center();
  SPLASH_UNROLL
  for (int v = 0; v < kValues; ++v) values[v] -= max;
  row.solve([&](const auto& observe) { observe(RegisterFragment<Real, kValues>{values}); }, group);
  SPLASH_UNROLL
  for (int v = 0; v < kValues; ++v) values[v] = row.weight(values[v]);
  access.template store<kChunks>(params.out + first, 0, values);
}

/// Chunks of a long row that a thread holds at once.
template <class Element>
inline constexpr int kLongChunks = (sizeof(RealOf<Element>) == 4 ? 16 : 8) / kVectorLength<Element>;

/// kStaged: the row is kept in shared memory, where each thread reads only what it wrote itself.
template <class Element, class Exponent, int kThreads, bool kStaged>
SPLASH_ROW_KERNEL(kThreads)
entmax_long_rows_forward(const EntmaxRowsParams<Element, Exponent> params) {
  using Real = RealOf<Element>;
  constexpr int kChunks = kLongChunks<Element>, kValues = kChunks * kVectorLength<Element>;
  extern __shared__ __align__(16) unsigned char staged[];
  __shared__ typename RowGroup<Real, kThreads>::Storage storage;
  const RowGroup<Real, kThreads> group(storage);
  const RowAccess<Element, kThreads, int64_t> access{params.length, params.aligned, group.rank()};
  const int64_t first = group.row() * params.length, chunks = access.chunks();
  const auto for_values = [&](const Element* from, const auto& body) {
    SPLASH_NO_UNROLL
    for (int64_t c = 0; c < chunks; c += kChunks) {
      Real values[kValues];
      access.template load<kChunks>(from, c, -math::kInfinity<Real>, values);
      body(c, values);
    }
  };
  Real max = -math::kInfinity<Real>;
  for_values(params.in + first, [&](int64_t c, Real(&values)[kValues]) {
    if constexpr (kStaged) access.template store<kChunks>(reinterpret_cast<Element*>(staged), c, values);
    max = largest(max, values);
  });
  const Element* source = kStaged ? reinterpret_cast<const Element*>(staged) : params.in + first;
  auto row = start_row<Exponent>(params.normalizer, max, group);
  row.solve(
      [&](const auto& observe) {
        for_values(source, [&](int64_t, Real(&values)[kValues]) { observe(RegisterFragment<Real, kValues>{values}); });
      },
      group);
  for_values(source, [&](int64_t c, Real(&values)[kValues]) {
    SPLASH_UNROLL
    for (int v = 0; v < kValues; ++v) values[v] = row.weight(values[v]);
    access.template store<kChunks>(params.out + first, c, values);
  });
}

/// The two sums of the backward.
template <class Real>
struct GradientSums {
  Real mass = 0, moment = 0;

  SPLASH_HD void add(Real u, Real grad) {
    mass += u;
    moment += u == Real(0) ? Real(0) : u * grad;
  }
  template <class Group>
  __device__ __forceinline__ Real delta(const Group& group) {
    group.sums(mass, moment);
    return normalizers::entmax_delta(mass, moment);
  }
};

template <class Real>
SPLASH_HD Real gradient_from(Real u, Real grad, Real delta) {
  return u == Real(0) ? Real(0) : u * (grad - delta);
}

template <class Real, int N>
SPLASH_HD bool any_nonzero(const Real (&u)[N]) {
  bool any = false;
  SPLASH_UNROLL
  for (int e = 0; e < N; ++e) any = any || !(u[e] == Real(0));
  return any;
}

/// Of the registers of a row, those of chunk c.
template <int kVector, class Real, int N>
SPLASH_HD auto& chunk_of(Real (&values)[N], int c) {
  return *reinterpret_cast<Real(*)[kVector]>(values + c * kVector);
}

template <class Element, class Exponent, int kThreads, int kValues>
SPLASH_ROW_KERNEL(kThreads)
entmax_rows_backward(const EntmaxRowsParams<Element, Exponent> params) {
  using Real = RealOf<Element>;
  constexpr int kVector = kVectorLength<Element>, kChunks = kValues / kVector;
  __shared__ typename RowGroup<Real, kThreads>::Storage storage;
  const RowGroup<Real, kThreads> group(storage);
  const int64_t first = group.row() * params.length;
  const RowAccess<Element, kThreads, int> access{group.row() < params.rows ? int(params.length) : 0, params.aligned,
                                                 group.rank()};
  Real u[kValues];
  access.template load<kChunks>(params.in + first, 0, Real(0), u);

  GradientSums<Real> sums;
  SPLASH_UNROLL
  for (int c = 0; c < kChunks; ++c) {
    Real(&chunk)[kVector] = chunk_of<kVector>(u, c);
    if (!any_nonzero(chunk)) continue;
    Real grad[kVector];
    access.template load<1>(params.grad + first, c, Real(0), grad);
    SPLASH_UNROLL
    for (int e = 0; e < kVector; ++e) {
      chunk[e] = normalizers::slope_of_weight(params.normalizer.exponent, chunk[e]);
      sums.add(chunk[e], grad[e]);
    }
  }
  const Real delta = sums.delta(group);
  SPLASH_UNROLL
  for (int c = 0; c < kChunks; ++c) {
    const Real(&chunk)[kVector] = chunk_of<kVector>(u, c);
    Real grad[kVector] = {};
    if (any_nonzero(chunk)) access.template load<1>(params.grad + first, c, Real(0), grad);
    SPLASH_UNROLL
    for (int e = 0; e < kVector; ++e) grad[e] = gradient_from(chunk[e], grad[e], delta);
    access.template store<1>(params.out + first, c, grad);
  }
}

template <class Element, class Exponent, int kThreads>
SPLASH_ROW_KERNEL(kThreads)
entmax_long_rows_backward(const EntmaxRowsParams<Element, Exponent> params) {
  using Real = RealOf<Element>;
  constexpr int kChunks = kLongChunks<Element>, kValues = kChunks * kVectorLength<Element>;
  __shared__ typename RowGroup<Real, kThreads>::Storage storage;
  const RowGroup<Real, kThreads> group(storage);
  const RowAccess<Element, kThreads, int64_t> access{params.length, params.aligned, group.rank()};
  const int64_t first = group.row() * params.length, chunks = access.chunks();
  /// body(c, u, grad), where grad is 0 if the thread has no u there.
  const auto for_values = [&](const auto& body) {
    SPLASH_NO_UNROLL
    for (int64_t c = 0; c < chunks; c += kChunks) {
      Real u[kValues], grad[kValues] = {};
      access.template load<kChunks>(params.in + first, c, Real(0), u);
      if (any_nonzero(u)) {
        access.template load<kChunks>(params.grad + first, c, Real(0), grad);
        SPLASH_UNROLL
        for (int v = 0; v < kValues; ++v) u[v] = normalizers::slope_of_weight(params.normalizer.exponent, u[v]);
      }
      body(c, u, grad);
    }
  };
  GradientSums<Real> sums;
  for_values([&](int64_t, Real(&u)[kValues], Real(&grad)[kValues]) {
    SPLASH_UNROLL
    for (int v = 0; v < kValues; ++v) sums.add(u[v], grad[v]);
  });
  const Real delta = sums.delta(group);
  for_values([&](int64_t c, Real(&u)[kValues], Real(&grad)[kValues]) {
    SPLASH_UNROLL
    for (int v = 0; v < kValues; ++v) grad[v] = gradient_from(u[v], grad[v], delta);
    access.template store<kChunks>(params.out + first, c, grad);
  });
}

}  // namespace kernel
SPLASH_NAMESPACE_END
