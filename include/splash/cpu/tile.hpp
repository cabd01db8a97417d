// Moving tiles: storage types to and from Real, and the transposition that turns rows into vector lanes.
#pragma once

#include "splash/core/arguments.hpp"
#include "splash/cpu/gemm.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

inline constexpr int kTile = 64;  ///< rows and keys of a tile

SPLASH_HD constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

template <class Real>
SPLASH_HD Simd<Real> load_vector(const Real* p) {
  return Simd<Real>::load(p);
}
template <class Real>
SPLASH_HD void store_vector(Real* p, Simd<Real> x) {
  x.store(p);
}

typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

template <class Real>
SPLASH_HD Simd<float> load_vector(const bfloat16_t* p) {
  using Natural = typename VectorOf<float>::natural;
  const auto bits = *reinterpret_cast<const HalfVector*>(p);
  return Simd<float>(Simd<float>::Vector(__builtin_convertvector(bits, Natural) << 16));
}
SPLASH_HD void store_vector(bfloat16_t* p, Simd<float> x) {
  using Natural = typename VectorOf<float>::natural;
  const Natural word = Natural(x.lanes);
  const Natural rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  const Natural quiet = (word >> 16) | 0x40u;
  const Natural bits = (word & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  *reinterpret_cast<HalfVector*>(p) = __builtin_convertvector(bits, HalfVector);
}

template <class Real>
SPLASH_HD Simd<float> load_vector(const half_t* p) {
#if defined(__AVX512F__)
  return Simd<float>(
      Simd<float>::Vector(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)))));
#elif defined(__F16C__)
  return Simd<float>(Simd<float>::Vector(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p)))));
#else
  Simd<float> x;
  for (int l = 0; l < Simd<float>::kLanes; ++l) x.lanes[l] = float(p[l]);
  return x;
#endif
}
SPLASH_HD void store_vector(half_t* p, Simd<float> x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, x.lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i_u*>(p),
                   _mm256_cvtps_ph(x.lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int l = 0; l < Simd<float>::kLanes; ++l) p[l] = half_t(x.lanes[l]);
#endif
}

template <class A, class B>
struct Same {
  static constexpr bool value = false;
};
template <class A>
struct Same<A, A> {
  static constexpr bool value = true;
};

/// W vectors of W numbers, transposed in place: log2(W) perfect shuffles.
template <class Real>
SPLASH_HD void transpose_lanes(Simd<Real> (&x)[Simd<Real>::kLanes]) {
  constexpr int W = Simd<Real>::kLanes;
  using Integer = typename Simd<Real>::Integer;
  if constexpr (W == 8) {
    // Shuffles that AVX has as one instruction: within its halves, then of halves.
    const auto exchange = [&](int a, int b, Integer first, Integer second) {
      const auto to_a = __builtin_shuffle(x[a].lanes, x[b].lanes, first);
      x[b].lanes = __builtin_shuffle(x[a].lanes, x[b].lanes, second);
      x[a].lanes = to_a;
    };
    for (int n = 0; n < W; n += 2)
      exchange(n, n + 1, Integer{0, 8, 1, 9, 4, 12, 5, 13}, Integer{2, 10, 3, 11, 6, 14, 7, 15});
    for (int n = 0; n < W; n += 4)
      for (int m = n; m < n + 2; ++m)
        exchange(m, m + 2, Integer{0, 1, 8, 9, 4, 5, 12, 13}, Integer{2, 3, 10, 11, 6, 7, 14, 15});
    for (int n = 0; n < W / 2; ++n)
      exchange(n, n + 4, Integer{0, 1, 2, 3, 8, 9, 10, 11}, Integer{4, 5, 6, 7, 12, 13, 14, 15});
    for (int n = 1; n < W; n += 4) {  // columns 0, 2, 1, 3, ... so far
      const Simd<Real> swapped = x[n];
      x[n] = x[n + 1];
      x[n + 1] = swapped;
    }
    return;
  }
  Integer low, high;
  for (int l = 0; l < W; ++l) {
    low[l] = (l % 2) * W + l / 2;
    high[l] = low[l] + W / 2;
  }
  Simd<Real> y[W];
  for (int round = 1; round < W; round *= 2) {
    for (int l = 0; l < W / 2; ++l) {
      y[2 * l] = Simd<Real>(__builtin_shuffle(x[l].lanes, x[l + W / 2].lanes, low));
      y[2 * l + 1] = Simd<Real>(__builtin_shuffle(x[l].lanes, x[l + W / 2].lanes, high));
    }
    for (int l = 0; l < W; ++l) x[l] = y[l];
  }
}

/// to[d][r] = factor * from[r][d] for r < rows and d < width; 0 for rows <= r < padded (a multiple of the lanes).
template <class Real, class Element>
[[gnu::noinline]] void load_transposed(Matrix<const Element> from, int rows, int width, Real factor, Matrix<Real> to,
                                       int padded) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  for (int r = 0; r < padded; r += W) {
    int d = 0;
    if (r + W <= rows) {
      for (; d + W <= width; d += W) {
        Value block[W];
        for (int l = 0; l < W; ++l) block[l] = load_vector<Real>(from.data + (r + l) * from.stride + d);
        transpose_lanes<Real>(block);
        for (int l = 0; l < W; ++l) (block[l] * Value(factor)).store(to.data + (d + l) * to.stride + r);
      }
    }
    for (; d < width; ++d)
      for (int l = 0; l < W; ++l)
        to.data[d * to.stride + r + l] = r + l < rows ? Real(from.data[(r + l) * from.stride + d]) * factor : Real(0);
  }
}

/// to[r][d] = factors[r] * from[d][r].
template <class Real, class Element>
[[gnu::noinline]] void store_transposed(Matrix<const Real> from, int rows, int width, const Real* factors,
                                        Matrix<Element> to) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  for (int r = 0; r < rows; r += W) {
    int d = 0;
    if (r + W <= rows) {
      const Value factor = Value::load(factors + r);
      for (; d + W <= width; d += W) {
        Value block[W];
        for (int l = 0; l < W; ++l) block[l] = Value::load(from.data + (d + l) * from.stride + r) * factor;
        transpose_lanes<Real>(block);
        for (int l = 0; l < W; ++l) store_vector(to.data + (r + l) * to.stride + d, block[l]);
      }
    }
    for (; d < width; ++d)
      for (int l = 0; l < W && r + l < rows; ++l)
        to.data[(r + l) * to.stride + d] = Element(from.data[d * from.stride + r + l] * factors[r + l]);
  }
}

/// to[r][d] = from[r][d] for r < rows and d < width, 0 for width <= d < padded.
template <class Real, class Element>
[[gnu::noinline]] void load_rows(Matrix<const Element> from, int rows, int width, Matrix<Real> to, int padded) {
  constexpr int W = Simd<Real>::kLanes;
  for (int r = 0; r < rows; ++r) {
    const Element* source = from.data + r * from.stride;
    Real* target = to.data + r * to.stride;
    int d = 0;
    for (; d + W <= width; d += W) load_vector<Real>(source + d).store(target + d);
    for (; d < width; ++d) target[d] = Real(source[d]);
    for (; d < padded; ++d) target[d] = Real(0);
  }
}

/// to[r][d] = factor * from[r][d].
template <class Real, class Element>
[[gnu::noinline]] void store_rows(Matrix<const Real> from, int rows, int width, Real factor, Matrix<Element> to) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  for (int r = 0; r < rows; ++r) {
    const Real* source = from.data + r * from.stride;
    Element* target = to.data + r * to.stride;
    int d = 0;
    for (; d + W <= width; d += W) store_vector(target + d, Value::load(source + d) * Value(factor));
    for (; d < width; ++d) target[d] = Element(source[d] * factor);
  }
}

template <class Element>
[[gnu::noinline]] void zero_rows(int rows, int64_t width, Matrix<Element> to) {
  for (int r = 0; r < rows; ++r) __builtin_memset(to.data + r * to.stride, 0, sizeof(Element) * width);
}

template <class Real>
[[gnu::noinline]] bool all_finite(Matrix<const Real> tile, int rows, int width) {
  using Value = Simd<Real>;
  constexpr int W = Value::kLanes;
  Value seen(Real(0));  // turns NaN for good at the first NaN or inf
  Real tail = 0;
  for (int r = 0; r < rows; ++r) {
    const Real* row = tile.data + r * tile.stride;
    int d = 0;
    for (; d + W <= width; d += W) seen = seen + Value::load(row + d) * Value(Real(0));
    for (; d < width; ++d) tail += row[d] * Real(0);
  }
  for (int l = 0; l < W; ++l) tail += seen.lanes[l];
  return tail == Real(0);
}

/// A tensor of (batch, head, row, D).
template <class Element>
struct Heads {
  Element* data;
  int64_t batch, head, row;

  static Heads from(const TensorView& view) {
    return {static_cast<Element*>(view.data), view.stride[0], view.stride[1], view.stride[2]};
  }
  SPLASH_HD Matrix<Element> rows(int b, int h, int r) const {
    return {data + b * batch + h * head + int64_t(r) * row, row};
  }
};

/// Rows [row, row + count) as Real with a row length that is a multiple of `step` (and zero in between): the tensor's
/// own memory where that serves, a copy in `scratch` where not.
template <class Real, class Element>
SPLASH_HD Matrix<const Real> real_rows(Matrix<const Element> from, int count, int width, int step, Real* scratch) {
  if constexpr (Same<Real, Element>::value) {
    if (width % step == 0) return from;
  }
  const int padded = round_up(width, step);
  load_rows<Real, Element>(from, count, width, {scratch, padded}, padded);
  return {scratch, padded};
}

}  // namespace cpu
SPLASH_NAMESPACE_END
