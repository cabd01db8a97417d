// The teeth that dilated patterns share: distances i - j that are multiples of a step and lie in a range.
#pragma once

#include "splash/patterns/bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Distances d with low <= d <= high and d % step == 0. Rows and columns are positions here, ranges are inclusive.
struct Comb {
  FastDivide step = 1;
  int low = 0, high = kUnlimited;
  uint64_t teeth = ~uint64_t(0);  ///< bits at multiples of the step

  static SPLASH_HD Comb between(int step, int low, int high) { return {step, low, high, repeated_bits(1, step)}; }

  /// |d| / step <= window, or 0 <= d / step <= window where it is causal.
  static SPLASH_HD Comb of(int window, int step, bool causal) {
    const int64_t reach = int64_t(window) * step;
    const int high = reach > kUnlimited ? kUnlimited : int(reach);
    return between(step, causal ? 0 : -high, high);
  }

  SPLASH_HD bool contains(int distance) const {
    return low <= distance && distance <= high && distance == round_down(distance, step);
  }

  /// The distances of [first, last], all of a box of scores: what of them is among these. Where first > last it means
  /// nothing.
  SPLASH_HD TileState classify(int first, int last) const {
    const int tooth = round_down(least(last, high), step);
    if (tooth < most(first, low)) return TileState::empty;
    const bool all = low <= first && last <= high && (step.divisor == 1 || first == last);
    return all ? TileState::full : TileState::partial;
  }

  /// TablePattern's residues() where these are all distances that are kept; never of more than kMaxResidues.
  bool residues(int64_t& dilation, int64_t (&sides)[2]) const {
    constexpr int kMaxResidues = 1 << 16;
    if (step.divisor > kMaxResidues || low > 0 || high < 0) return false;
    dilation = step.divisor;
    sides[0] = high == kUnlimited ? -1 : high / step.divisor;
    sides[1] = low == -kUnlimited ? -1 : -low / step.divisor;
    return true;
  }

  /// Rows [i0, i1] keep the columns [i0 - d, i1 - d] of every distance d.
  SPLASH_HD int next_column(int i0, int i1, int j) const {
    const int distance = round_down(least(i1 - j, high), step);
    return distance < low ? kEnd : most(j, i0 - distance);
  }
  SPLASH_HD int next_row(int j0, int j1, int i) const {
    const int distance = -round_down(-most(i - j1, low), step);
    return distance > high ? kEnd : most(i, j0 + distance);
  }

  /// Bit c: contains(distance - c).
  SPLASH_HD uint64_t bits(int distance) const {
    return shifted_up(teeth, floor_mod(distance, step)) & bits_between(distance - high, distance - low);
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
