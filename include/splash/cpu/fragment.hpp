// How a normalizer sees a tile on the host.
#pragma once

#include "splash/cpu/simd.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// Lines of vectors: value (r, c) is the vector at data + r * row_stride + c * column_stride.
template <class Real, int Columns = 0>
struct Fragment {
  Real* data;
  int64_t row_stride, column_stride;
  int count = Columns;

  SPLASH_HD constexpr int columns() const { return Columns ? Columns : count; }
  SPLASH_HD Simd<Real> get(int r, int c) const { return Simd<Real>::load(data + r * row_stride + c * column_stride); }
  SPLASH_HD void set(int r, int c, Simd<Real> x) { x.store(data + r * row_stride + c * column_stride); }
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

}  // namespace cpu
SPLASH_NAMESPACE_END
