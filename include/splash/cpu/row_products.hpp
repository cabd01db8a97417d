// Products of a few rows with many: queries with keys, and weights with values. Lanes are along the head dimension, so
// that a key or a value is read in whole, once, where it lies.
#pragma once

#include "splash/cpu/parallel.hpp"
#include "splash/cpu/tile.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// `count` rows of a tensor: those that `list` names.
template <class Element>
struct ListedRows {
  Matrix<const Element> rows;
  const uint8_t* list;
  int count;
  SPLASH_HD const Element* at(int n) const { return rows.data + list[n] * rows.stride; }
};

/// Vectors of a row of `width` numbers. What is left in the end stands in the last lanes of a vector of its own.
template <class Real>
SPLASH_HD constexpr int vectors_of(int width) {
  return (width + Simd<Real>::kLanes - 1) / Simd<Real>::kLanes;
}

/// The last vector of a row whose width is no multiple of the lanes; 0 in the lanes before.
template <class Real, class Element>
SPLASH_HD Simd<Real> load_rest(const Element* row, int width) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  const int before = W - width % W;
  if (width < W) {
    Value x(Real(0));
    for (int l = before; l < W; ++l) x.lanes[l] = Real(row[l - before]);
    return x;
  }
  typename Value::Integer lane;
  for (int l = 0; l < W; ++l) lane[l] = l;
  const typename Value::Mask fresh{typename Value::Integer(lane >= before)};
  return Value::select(fresh, load_vector<Real>(row + width - W), Value(Real(0)));
}

/// Lane l of x becomes the sum of all lanes of vector l.
template <class Real>
SPLASH_HD Simd<Real> sums_of(Simd<Real>* x) {
  constexpr int W = Simd<Real>::kLanes;
  using Integer = typename Simd<Real>::Integer;
  for (int step = 1; step < W; step *= 2) {
    // Lanes with the bit `step` belong to the second vector of a pair.
    Integer straight, crossed, swap;
    for (int l = 0; l < W; ++l) {
      straight[l] = l & step ? l + W : l;
      crossed[l] = l & step ? l : l + W;
      swap[l] = l ^ step;
    }
    for (int n = 0; n < W / step; n += 2) {
      const auto a = x[n].lanes, b = x[n + 1].lanes;
      x[n / 2] =
          Simd<Real>(__builtin_shuffle(a, b, straight) + __builtin_shuffle(__builtin_shuffle(a, b, crossed), swap));
    }
  }
  return x[0];
}

/// Rows that are asked for before they are needed. What lies behind the last one may be anything.
inline constexpr int kAhead = 16;

template <class Element>
SPLASH_HD void prefetch_row(const Element* row, int width) {
  for (int d = 0; d < width; d += int(kAlignment / sizeof(Element))) __builtin_prefetch(row + d);
}

/// Sums that are under way at a time.
template <class Real>
inline constexpr int kSums = Simd<Real>::kLanes > 8 ? Simd<Real>::kLanes : 8;

/// to[r][n] = queries[r] . keys[n], n < kSums / R.
template <class Real, class Element, int R>
SPLASH_HD void dot_block(const Element* const* keys, Matrix<const Real> queries, int width, Matrix<Real> to) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes, K = kSums<Real> / R;
  Value sum[kSums<Real>];
  for (Value& x : sum) x = Value(Real(0));
  const auto add = [&](int d, const auto& load) {
    Value row[R];
    for (int r = 0; r < R; ++r) row[r] = Value::load(queries.data + r * queries.stride + d);
    for (int n = 0; n < K; ++n) {
      const Value key = load(keys[n]);
      for (int r = 0; r < R; ++r) sum[r * K + n] = Value::fma(row[r], key, sum[r * K + n]);
    }
  };
  int d = 0;
  for (; d + W <= width; d += W) add(d, [&](const Element* key) { return load_vector<Real>(key + d); });
  if (d < width) add(d, [&](const Element* key) { return load_rest<Real>(key, width); });
  Real sums[kSums<Real>];
  for (int n = 0; n < kSums<Real>; n += W) sums_of<Real>(sum + n).store(sums + n);
  for (int r = 0; r < R; ++r) __builtin_memcpy(to.data + r * to.stride, sums + r * K, K * sizeof(Real));
}

/// to[r][n] = queries[r] . keys[n]; up to kSums - 1 numbers more in each row of `to` are overwritten. A row of queries
/// has vectors_of(width) vectors.
template <class Real, class Element>
[[gnu::noinline]] void dot_rows(const ListedRows<Element>& keys, Matrix<const Real> queries, int rows, int width,
                                Matrix<Real> to) {
  constexpr int S = kSums<Real>;
  for (int n = 0; n < keys.count; n += S) {
    const Element* block[S];
    for (int k = 0; k < S; ++k) block[k] = keys.at(n + k < keys.count ? n + k : keys.count - 1);
    for (int k = 0; k < S; ++k) prefetch_row(block[k] + kAhead * keys.rows.stride, width);
    const auto part = [&](int r, auto count) {
      constexpr int R = decltype(count)::value;
      for (int k = 0; k < S; k += S / R)
        dot_block<Real, Element, R>(block + k, {queries.data + r * queries.stride, queries.stride}, width,
                                    {to.data + r * to.stride + n + k, to.stride});
      return R;
    };
    int r = 0;
    while (r + 4 <= rows) r += part(r, Count<4>{});
    if (r + 2 <= rows) r += part(r, Count<2>{});
    if (r < rows) part(r, Count<1>{});
  }
}

/// R rows and V vectors of what weigh_rows() does; load(value) gives the first of the V vectors of a row of values.
template <class Real, class Element, int R, int V, class Load>
SPLASH_HD void weigh_block(const ListedRows<Element>& values, Matrix<const Real> weights, Matrix<Real> to,
                           const Load& load) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  Value sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = Value::load(to.data + r * to.stride + v * W);
  for (int n = 0; n < values.count; ++n) {
    const Element* value = values.at(n);
    const Real* weight = weights.data + values.list[n];
    Value row[V];
    for (int v = 0; v < V; ++v) row[v] = load(value, v);
    for (int r = 0; r < R; ++r) {
      const Value factor(weight[r * weights.stride]);
      for (int v = 0; v < V; ++v) sum[r][v] = Value::fma(factor, row[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v].store(to.data + r * to.stride + v * W);
}

template <class Real, class Element, int R>
[[gnu::noinline]] void weigh_columns(const ListedRows<Element>& values, Matrix<const Real> weights, int width,
                                     Matrix<Real> to) {
  constexpr int W = Simd<Real>::kLanes, kMost = R > 1 && kVectorBytes == 64 ? 16 / R : 8 / R;
  int d = 0;
  const auto part = [&](auto vectors) {
    constexpr int V = decltype(vectors)::value;
    weigh_block<Real, Element, R, V>(values, weights, {to.data + d, to.stride},
                                     [&](const Element* value, int v) { return load_vector<Real>(value + d + v * W); });
    d += V * W;
  };
  while (d + kMost * W <= width) part(Count<kMost>{});
  if constexpr (kMost > 4)
    if (d + 4 * W <= width) part(Count<4>{});
  if constexpr (kMost > 2)
    if (d + 2 * W <= width) part(Count<2>{});
  if (d + W <= width) part(Count<1>{});
  if (d < width)
    weigh_block<Real, Element, R, 1>(values, weights, {to.data + d, to.stride},
                                     [&](const Element* value, int) { return load_rest<Real>(value, width); });
}

/// to[r] += sum over n of weights[r][list[n]] * values[n]. A row of `to` has vectors_of(width) vectors.
template <class Real, class Element>
void weigh_rows(const ListedRows<Element>& values, Matrix<const Real> weights, int rows, int width, Matrix<Real> to) {
  for (int n = 0; n < values.count; n += kAhead) {
    const int left = values.count - n;
    const ListedRows<Element> some{values.rows, values.list + n, left < kAhead ? left : kAhead};
    for (int k = 0; k < some.count; ++k) prefetch_row(some.at(k) + kAhead * values.rows.stride, width);
    const auto part = [&](int r, auto count) {
      constexpr int R = decltype(count)::value;
      weigh_columns<Real, Element, R>(some, {weights.data + r * weights.stride, weights.stride}, width,
                                      {to.data + r * to.stride, to.stride});
      return R;
    };
    int r = 0;
    while (r + 4 <= rows) r += part(r, Count<4>{});
    if (r + 2 <= rows) r += part(r, Count<2>{});
    if (r < rows) part(r, Count<1>{});
  }
}

/// to = factor * from: a row of vectors_of(width) vectors.
template <class Real, class Element>
SPLASH_HD void store_row(const Real* from, int width, Real factor, Element* to) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  int d = 0;
  for (; d + W <= width; d += W) store_vector(to + d, Value::load(from + d) * Value(factor));
  for (int l = W - width % W; d < width; ++d, ++l) to[d] = Element(from[width / W * W + l] * factor);
}

}  // namespace cpu
SPLASH_NAMESPACE_END
