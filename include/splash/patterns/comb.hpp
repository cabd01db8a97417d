// The teeth that dilated patterns share: distances i - j that are multiples of a step and lie in a range.
#pragma once

#include "splash/patterns/bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Distances d with low <= d <= high and d % step == 0. Rows and columns are positions here, ranges are inclusive.
struct Comb {
  int step = 1, low = 0, high = kUnlimited;

  /// |d| / step <= window, or 0 <= d / step <= window where it is causal.
  static SPLASH_HD Comb of(int window, int step, bool causal) {
    const int64_t reach = int64_t(window) * step;
    const int high = reach > kUnlimited ? kUnlimited : int(reach);
    return {step, causal ? 0 : -high, high};
  }

  SPLASH_HD bool contains(int distance) const { return low <= distance && distance <= high && distance % step == 0; }

  /// Whether some distance of [first, last] is one of these; all distances of a box of scores are such a range.
  SPLASH_HD bool any(int first, int last) const {
    const int end = least(last, high), begin = most(first, low);
    return begin <= end && down(end) >= begin;
  }
  SPLASH_HD bool all(int first, int last) const {
    return low <= first && last <= high && (step == 1 || (first == last && first % step == 0));
  }

  /// TablePattern's residues() where these are all distances that are kept; never of more than kMaxResidues.
  bool residues(int64_t& dilation, int64_t (&sides)[2]) const {
    constexpr int kMaxResidues = 1 << 16;
    if (step > kMaxResidues || low > 0 || high < 0) return false;
    dilation = step;
    sides[0] = high == kUnlimited ? -1 : high / step;
    sides[1] = low == -kUnlimited ? -1 : -low / step;
    return true;
  }

  /// Rows [i0, i1] keep the columns [i0 - d, i1 - d] of every distance d.
  SPLASH_HD int next_column(int i0, int i1, int j) const {
    const int distance = down(least(i1 - j, high));
    return distance < low ? kEnd : most(j, i0 - distance);
  }
  SPLASH_HD int next_row(int j0, int j1, int i) const {
    const int distance = -down(-most(i - j1, low));
    return distance > high ? kEnd : most(i, j0 + distance);
  }

  /// Bit c: contains(distance - c).
  SPLASH_HD uint64_t bits(int distance) const {
    return repeated_bits(1, step, floor_mod(distance, step)) & bits_between(distance - high, distance - low);
  }

 private:
  /// The largest multiple of the step that is not above.
  SPLASH_HD int down(int distance) const { return floor_div(distance, step) * step; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
