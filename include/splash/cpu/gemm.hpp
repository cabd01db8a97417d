// The matrix product of a tile, C (m x n) = [C] + A (m x k) B (k x n): rows of B and C are vectors, elements of A are
// broadcast, so A may lie in memory either way round and K, V and Q are read where they are.
#pragma once

#include "splash/cpu/simd.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// What C holds before the product is added: nothing, itself, or itself times one factor a column.
enum class Start { zero, add, rescale };

/// The left operand: element (row, step) at data[row * row_stride + step * step_stride].
template <class Real>
struct Broadcast {
  const Real* data;
  int64_t row_stride, step_stride;
};

/// A matrix with contiguous rows.
template <class Real>
struct Matrix {
  Real* data;
  int64_t stride;
  SPLASH_HD operator Matrix<const Real>() const { return {data, stride}; }
};
template <class Real>
struct Matrix<const Real> {
  const Real* data;
  int64_t stride;
};

template <int N>
struct Count {
  static constexpr int value = N;
};

// Accumulators of a micro kernel: as many as the registers hold beside one row of B and one broadcast. A single vector
// of columns takes more rows, to keep enough sums in flight.
inline constexpr int kMicroVectors = kVectorBytes == 64 ? 4 : 2;
template <int V>
inline constexpr int kMicroRows = V == 1 ? 12 : 6;

template <class Real, int M, int V>
SPLASH_HD void micro_kernel(int k, Broadcast<Real> a, Matrix<const Real> b, Matrix<Real> c, Start start,
                            const Real* factors) {
  using Value = Simd<Real>;
  constexpr int kLanes = Value::kLanes;
  Value sum[M][V];
  if (start == Start::zero) {
    for (int r = 0; r < M; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = Value(Real(0));
  } else {
    for (int r = 0; r < M; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = Value::load(c.data + r * c.stride + v * kLanes);
    if (start == Start::rescale) {
      for (int v = 0; v < V; ++v) {
        const Value factor = Value::load(factors + v * kLanes);
        for (int r = 0; r < M; ++r) sum[r][v] = sum[r][v] * factor;
      }
    }
  }
  for (int step = 0; step < k; ++step) {
    Value row[V];
    for (int v = 0; v < V; ++v) row[v] = Value::load(b.data + v * kLanes);
    for (int r = 0; r < M; ++r) {
      const Value left(a.data[r * a.row_stride]);
      for (int v = 0; v < V; ++v) sum[r][v] = Value::fma(left, row[v], sum[r][v]);
    }
    a.data += a.step_stride;
    b.data += b.stride;
  }
  for (int r = 0; r < M; ++r)
    for (int v = 0; v < V; ++v) sum[r][v].store(c.data + r * c.stride + v * kLanes);
}

/// All rows of V vectors of columns.
template <class Real, int V>
[[gnu::noinline]] void multiply_columns(int m, int k, Broadcast<Real> a, Matrix<const Real> b, Matrix<Real> c,
                                        Start start, const Real* factors) {
  int row = 0;
  const auto advance = [&](int rows) {
    row += rows;
    a.data += rows * a.row_stride;
    c.data += rows * c.stride;
  };
  constexpr int kRows = kMicroRows<V>;
  for (; row + kRows <= m; advance(kRows)) micro_kernel<Real, kRows, V>(k, a, b, c, start, factors);
  if constexpr (kRows > 6)
    if (row + 6 <= m) micro_kernel<Real, 6, V>(k, a, b, c, start, factors), advance(6);
  if (row + 4 <= m) micro_kernel<Real, 4, V>(k, a, b, c, start, factors), advance(4);
  if (row + 2 <= m) micro_kernel<Real, 2, V>(k, a, b, c, start, factors), advance(2);
  if (row < m) micro_kernel<Real, 1, V>(k, a, b, c, start, factors);
}

/// n is a multiple of the lanes of a vector. `factors` (n) where start is rescale.
template <class Real>
void multiply(int m, int n, int k, Broadcast<Real> a, Matrix<const Real> b, Matrix<Real> c, Start start,
              const Real* factors = nullptr) {
  constexpr int kLanes = Simd<Real>::kLanes;
  const auto columns = [&](auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;
    multiply_columns<Real, kVectors>(m, k, a, b, c, start, factors);
    b.data += kVectors * kLanes;
    c.data += kVectors * kLanes;
    if (factors) factors += kVectors * kLanes;
    n -= kVectors * kLanes;
  };
  while (n >= kMicroVectors * kLanes) columns(Count<kMicroVectors>{});
  if constexpr (kMicroVectors == 4)
    if (n >= 2 * kLanes) columns(Count<2>{});
  if (n >= kLanes) columns(Count<1>{});
}

}  // namespace cpu
SPLASH_NAMESPACE_END
