// Entmax on the GPU along a dimension that is not the last, and its gradient: rows that are neighbours are lanes of a
// warp, so that a warp reads and writes neighbouring numbers, and the warps of a block share the rows' length. Nothing
// is transposed. The mathematics is that of kernel/entmax_rows.hpp.
#pragma once

#include "splash/kernel/entmax_rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace kernel {

template <class Element, class Exponent>
struct EntmaxColumnsParams {
  using Real = RealOf<Element>;
  normalizers::Entmax<Real, Exponent> normalizer;
  const Element* in;
  const Element* grad;
  Element* out;
  int64_t length, inner;
  int64_t inner_blocks;  ///< blocks of 32 rows that cover inner
};

/// The numbers of a thread: those of row `lane` from its warp's number on, kWarps apart.
template <class Element, int kWarps>
struct ColumnAccess {
  using Real = RealOf<Element>;
  int64_t length, inner, first;
  bool inside;

  template <class Params>
  explicit __device__ __forceinline__ ColumnAccess(const Params& params) : length(params.length), inner(params.inner) {
    const int64_t i = int64_t(blockIdx.x) % params.inner_blocks * 32 + threadIdx.x % 32;
    inside = i < inner;
    first = int64_t(blockIdx.x) / params.inner_blocks * length * inner + i;
  }
  static __device__ __forceinline__ int64_t place(int64_t n) { return n * kWarps + threadIdx.x / 32; }
  __device__ __forceinline__ int64_t count() const { return (length + kWarps - 1) / kWarps; }

  __device__ __forceinline__ Real load(const Element* from, int64_t n, Real fill) const {
    return inside && place(n) < length ? Real(from[first + place(n) * inner]) : fill;
  }
  __device__ __forceinline__ void store(Element* to, int64_t n, Real x) const {
    if (inside && place(n) < length) to[first + place(n) * inner] = Element(x);
  }
};

template <class Element, class Exponent, int kWarps, int kValues>
SPLASH_ROW_KERNEL(kWarps * 32)
entmax_columns_forward(const EntmaxColumnsParams<Element, Exponent> params) {
  using Real = RealOf<Element>;
  __shared__ typename ColumnGroup<Real, kWarps>::Storage storage;
  const ColumnGroup<Real, kWarps> group(storage);
  const ColumnAccess<Element, kWarps> access(params);
  Real values[kValues];
  SPLASH_UNROLL
  for (int v = 0; v < kValues; ++v) values[v] = access.load(params.in, v, -math::kInfinity<Real>);
  auto row = start_row<Exponent>(params.normalizer, largest(values[0], values), group);
  const Real max = row.center();
  SPLASH_UNROLL
  for (int v = 0; v < kValues; ++v) values[v] -= max;
  row.solve([&](const auto& observe) { observe(RegisterFragment<Real, kValues>{values}); }, group);
  SPLASH_UNROLL
  for (int v = 0; v < kValues; ++v) access.store(params.out, v, row.weight(values[v]));
}

template <class Element, class Exponent, int kWarps>
SPLASH_ROW_KERNEL(kWarps * 32)
entmax_long_columns_forward(const EntmaxColumnsParams<Element, Exponent> params) {
  using Real = RealOf<Element>;
  __shared__ typename ColumnGroup<Real, kWarps>::Storage storage;
  const ColumnGroup<Real, kWarps> group(storage);
  const ColumnAccess<Element, kWarps> access(params);
  constexpr int kPart = 8;  // numbers at once: as many loads on their way, and a short chain of additions
  const int64_t count = access.count();
  Real max = -math::kInfinity<Real>;
  for (int64_t n = 0; n < count; ++n) max = max_or_nan(max, access.load(params.in, n, -math::kInfinity<Real>));
  auto row = start_row<Exponent>(params.normalizer, max, group);
  row.solve(
      [&](const auto& observe) {
        for (int64_t n = 0; n < count; n += kPart) {
          Real values[kPart];
          SPLASH_UNROLL
          for (int v = 0; v < kPart; ++v) values[v] = access.load(params.in, n + v, -math::kInfinity<Real>);
          observe(RegisterFragment<Real, kPart>{values});
        }
      },
      group);
  for (int64_t n = 0; n < count; ++n)
    access.store(params.out, n, row.weight(access.load(params.in, n, -math::kInfinity<Real>)));
}

template <class Element, class Exponent, int kWarps>
SPLASH_ROW_KERNEL(kWarps * 32)
entmax_columns_backward(const EntmaxColumnsParams<Element, Exponent> params) {
  using Real = RealOf<Element>;
  __shared__ typename ColumnGroup<Real, kWarps>::Storage storage;
  const ColumnGroup<Real, kWarps> group(storage);
  const ColumnAccess<Element, kWarps> access(params);
  const int64_t count = access.count();
  const auto load = [&](int64_t n, Real& u, Real& grad) {
    u = normalizers::slope_of_weight(params.normalizer.exponent, access.load(params.in, n, Real(0)));
    grad = u == Real(0) ? Real(0) : access.load(params.grad, n, Real(0));
  };
  GradientSums<Real> sums;
  for (int64_t n = 0; n < count; ++n) {
    Real u, grad;
    load(n, u, grad);
    sums.add(u, grad);
  }
  const Real delta = sums.delta(group);
  for (int64_t n = 0; n < count; ++n) {
    Real u, grad;
    load(n, u, grad);
    access.store(params.out, n, gradient_from(u, grad, delta));
  }
}

}  // namespace kernel
SPLASH_NAMESPACE_END
