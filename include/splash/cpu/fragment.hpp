// How a normalizer sees a tile on the host.
#pragma once

#include "splash/cpu/simd.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// What the lanes of a score tile are: S[key][query] in the forward, S[query][key] in the backward.
enum class Lanes { queries, keys };

/// 0, 1, 2, ...
template <class Real>
SPLASH_HD Simd<Real> iota() {
  Simd<Real> x;
  for (int l = 0; l < Simd<Real>::kLanes; ++l) x.lanes[l] = Real(l);
  return x;
}

/// One vector a line: line c is the vector at data + c * stride. Lines are keys and lanes queries, or a line is the
/// next vector of keys of one query.
template <class Real, Lanes kLanes>
struct Fragment {
  Real* data;
  int64_t stride;
  int count;
  int first;  ///< column of line 0, lane 0

  SPLASH_HD constexpr int columns() const { return count; }
  SPLASH_HD Simd<Real> get(int, int c) const { return Simd<Real>::load(data + c * stride); }
  SPLASH_HD void set(int, int c, Simd<Real> x) { x.store(data + c * stride); }
  SPLASH_HD Simd<Real> column(int c) const {
    if constexpr (kLanes == Lanes::queries)
      return Simd<Real>(Real(first + c));
    else
      return Simd<Real>(Real(first + c * Simd<Real>::kLanes)) + iota<Real>();
  }
};

/// A lane is a row: nothing to combine.
struct LaneIsRow {
  template <class Value>
  SPLASH_HD Value max(Value x) const {
    return x;
  }
  template <class Value>
  SPLASH_HD Value sum(Value x) const {
    return x;
  }
};

/// Lanes are keys of one row.
struct LaneIsKey {
  template <class Real>
  SPLASH_HD Simd<Real> max(Simd<Real> x) const {
    // Of a number and a NaN each lane may have found another one.
    return Simd<Real>(combine(x, [](Simd<Real> a, Simd<Real> b) { return Simd<Real>::max(a, b); }).lanes[0]);
  }
  template <class Real>
  SPLASH_HD Simd<Real> sum(Simd<Real> x) const {
    return combine(x, [](Simd<Real> a, Simd<Real> b) { return a + b; });
  }

 private:
  template <class Real, class Function>
  static SPLASH_HD Simd<Real> combine(Simd<Real> x, const Function& function) {
    for (int step = 1; step < Simd<Real>::kLanes; step *= 2) {
      typename Simd<Real>::Integer swap;
      for (int l = 0; l < Simd<Real>::kLanes; ++l) swap[l] = l ^ step;
      x = function(x, Simd<Real>(__builtin_shuffle(x.lanes, swap)));
    }
    return x;
  }
};

}  // namespace cpu
SPLASH_NAMESPACE_END
