// Products of a few rows with many: queries with keys, and weights with values. A key or a value is read in whole,
// once, where it lies: vectors of keys are transposed in registers, vectors of values serve as they are.
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

/// Rows that are asked for before they are needed. What lies behind the last one may be anything.
inline constexpr int kAhead = 16;

template <class Element>
SPLASH_HD void prefetch_row(const Element* row, int width) {
  for (int d = 0; d < width; d += int(kAlignment / sizeof(Element))) __builtin_prefetch(row + d);
}

/// Vectors of keys at a time, as many as keep enough sums in flight: of R rows, and of all.
template <int R>
inline constexpr int kDotVectors = R == 1 ? 2 : 1;
template <class Real>
inline constexpr int kDotKeys = kDotVectors<1> * Simd<Real>::kLanes;

/// to[r][n] = queries[r] . keys[n], n < kDotVectors * lanes. Asks for what lies `ahead` of the keys.
template <class Real, class Element, int R>
SPLASH_HD void dot_block(const Element* const* keys, Matrix<const Real> queries, int width, Matrix<Real> to,
                         int64_t ahead) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes, V = kDotVectors<R>;
  Value sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = Value(Real(0));
  // Columns [first, W) of W columns of the keys, transposed; those of the queries begin at d.
  const auto add = [&](int d, int first, const auto& load) {
    for (int v = 0; v < V; ++v) {
      Value block[W];
      if (d % int(kAlignment / sizeof(Element)) == 0)
        for (int l = 0; l < W; ++l) __builtin_prefetch(keys[v * W + l] + ahead + d);
      for (int l = 0; l < W; ++l) block[l] = load(keys[v * W + l]);
      transpose_lanes<Real>(block);
      for (int c = first; c < W; ++c)
        for (int r = 0; r < R; ++r)
          sum[r][v] = Value::fma(Value(queries.data[r * queries.stride + d + c]), block[c], sum[r][v]);
    }
  };
  int d = 0;
  for (; d + W <= width; d += W) add(d, 0, [&](const Element* key) { return load_vector<Real>(key + d); });
  if (d < width) add(d, W - width % W, [&](const Element* key) { return load_rest<Real>(key, width); });
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v].store(to.data + r * to.stride + v * W);
}

/// The same of one row for kLanes keys: vectors lie along D, and only their sums are transposed.
template <class Real, class Element>
SPLASH_HD void dot_along(const Element* const* keys, const Real* query, int width, Real* to, int64_t ahead) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  Value sum[W];
  for (int l = 0; l < W; ++l) sum[l] = Value(Real(0));
  int d = 0;
  for (; d + W <= width; d += W) {
    const Value factor = Value::load(query + d);
    if (d % int(kAlignment / sizeof(Element)) == 0)
      for (int l = 0; l < W; ++l) __builtin_prefetch(keys[l] + ahead + d);
    for (int l = 0; l < W; ++l) sum[l] = Value::fma(factor, load_vector<Real>(keys[l] + d), sum[l]);
  }
  if (d < width) {
    const Value factor = Value::load(query + d);
    for (int l = 0; l < W; ++l) sum[l] = Value::fma(factor, load_rest<Real>(keys[l], width), sum[l]);
  }
  transpose_lanes<Real>(sum);
  for (int half = W / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sum[l] = sum[l] + sum[l + half];
  sum[0].store(to);
}

/// to[r][n] = queries[r] . keys[n]. InOrder: each summed along D one by one, so that the backward, which has another
/// order of loops, finds the very scores that the forward compared. Up to kDotKeys - 1 numbers more in each row of `to`
/// are overwritten. A row of queries has vectors_of(width) vectors.
template <class Real, class Element, bool InOrder>
[[gnu::noinline]] void dot_rows(const ListedRows<Element>& keys, Matrix<const Real> queries, int rows, int width,
                                Matrix<Real> to) {
  constexpr int S = kDotKeys<Real>;
  static_assert(kTile % S == 0);
  for (int n = 0; n < keys.count; n += S) {
    const Element* block[S];
    for (int k = 0; k < S; ++k) block[k] = keys.at(n + k < keys.count ? n + k : keys.count - 1);
    const int end = keys.count - n < S ? keys.count - n : S;
    const auto part = [&](int r, auto count) {
      constexpr int R = decltype(count)::value;
      if constexpr (R == 1 && !InOrder) {
        for (int k = 0; k < end; k += Simd<Real>::kLanes)
          dot_along<Real, Element>(block + k, queries.data + r * queries.stride, width, to.data + r * to.stride + n + k,
                                   r ? 0 : 2 * kAhead * keys.rows.stride);
        return R;
      }
      for (int k = 0; k < end; k += kDotVectors<R> * Simd<Real>::kLanes)
        dot_block<Real, Element, R>(block + k, {queries.data + r * queries.stride, queries.stride}, width,
                                    {to.data + r * to.stride + n + k, to.stride},
                                    r ? 0 : 2 * kAhead * keys.rows.stride);
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
