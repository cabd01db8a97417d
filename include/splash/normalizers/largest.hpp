// The k-th largest number of a row, exactly, by counting in sweeps over the row: nothing is stored or sorted.
#pragma once

#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// low <= x <= high holds throughout for the number x that is wanted, and both ends are numbers of the row. Each sweep
/// counts the numbers around a pivot between them and moves an end to the next number beyond the pivot, until they
/// meet; `high` is made to meet `low` where the numbers from `low` on are just as many as wanted. NaN is not counted,
/// and -inf stands for "no number".
template <class Value>
struct Largest {
  using Real = math::Scalar<Value>;
  static constexpr int kMidpoints = 16;  ///< sweeps after which pivots halve the representable numbers in between

  Value low, high;   ///< -inf in the end where the row has no more than k numbers
  Value from_low;    ///< count of numbers >= low
  Value above_high;  ///< count of numbers > high
  Value pivot;
  Value above, equal, next_above, next_below;  ///< of this sweep: counts, and the numbers next to the pivot

  SPLASH_HD Largest() : low(none()), high(none()), from_low(0), above_high(0), pivot(none()) { clear(); }

  /// One number of the first sweep, which looks for both ends.
  SPLASH_HD void enter(Value x) {
    above = above + math::select(x > none(), Value(1), Value(0));
    next_above = math::select(x < next_above, math::select(x > none(), x, next_above), next_above);
    next_below = math::select(x > next_below, x, next_below);
  }

  /// One number of a later sweep.
  SPLASH_HD void count(Value x) {
    const auto larger = x > pivot, smaller = x < pivot;
    above = above + math::select(larger, Value(1), Value(0));
    equal = equal + math::select(x == pivot, Value(1), Value(0));
    next_above = math::select(x < next_above, math::select(larger, x, next_above), next_above);
    next_below = math::select(x > next_below, math::select(smaller, x, next_below), next_below);
  }

  /// Ends a sweep (the first is 0) of the search for the k-th largest; true where another one is needed.
  template <class Reduce>
  SPLASH_HD bool narrow(int sweep, Value k, const Reduce& reduce) {
    above = reduce.sum(above);
    equal = reduce.sum(equal);
    next_above = -reduce.max(-next_above);
    next_below = reduce.max(next_below);
    if (sweep == 0) {
      const auto enough = above > k;
      low = math::select(enough, next_above, none());
      high = math::select(enough, next_below, none());
      from_low = math::select(enough, above, k);
    } else {
      const Value from_pivot = above + equal;
      const auto open = low < high, not_above = above < k, below = from_pivot < k;
      const auto move = [&](Value& end, Value if_above, Value if_below, Value if_pivot) {
        end = math::select(open, math::select(not_above, math::select(below, if_below, if_pivot), if_above), end);
      };
      move(low, next_above, low, pivot);
      move(from_low, above, from_low, from_pivot);
      move(high, high, next_below, pivot);
      move(above_high, above_high, from_pivot, above);
      high = math::select(from_low > k, high, low);
    }
    clear();
    const Value half(Real(0.5));
    pivot = sweep < kMidpoints ? math::fma(low, half, high * half) : math::between(low, high);
    return math::any(low < high);
  }

  /// How many of the numbers equal to `low` belong to the k largest; +inf where all do.
  SPLASH_HD Value ties(Value k) const {
    return math::select(from_low > k, k - above_high, Value(math::kInfinity<Real>));
  }

 private:
  static SPLASH_HD Value none() { return Value(-math::kInfinity<Real>); }
  SPLASH_HD void clear() {
    above = equal = Value(0);
    next_above = Value(math::kInfinity<Real>);
    next_below = none();
  }
};

}  // namespace normalizers
SPLASH_NAMESPACE_END
