// Entmax of one row at a time: the state of normalizers/entmax.hpp, driven so that few values are looked at often.
//
// Let a row be cut into any groups. The largest values of the groups are a subset of the row, so their own tau is at
// most the row's: a lower bound to start from, which leaves hardly more candidates than the final support where there
// are many groups. Newton from a lower bound then needs two or three sweeps instead of six.
#pragma once

#include "splash/normalizers/entmax.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// alpha = 2 (sparsemax, Martins & Astudillo 2016): beta = 1, weights are the base itself.
struct UnitExponent {
  static SPLASH_HD UnitExponent from(double) { return {}; }
  SPLASH_HD double alpha() const { return 2.0; }
  template <class Value>
  SPLASH_HD Value slope(Value base) const {
    return math::select(base == Value(0), Value(0), Value(1));
  }
  template <class Value>
  SPLASH_HD Value root(Value) const {
    return Value(1);
  }
};

/// 1 < alpha < 2, with the powers worked out once.
struct PowerExponent {
  double alpha_, of_base, of_total;
  static SPLASH_HD PowerExponent from(double alpha) { return {alpha, (2.0 - alpha) / (alpha - 1.0), 2.0 - alpha}; }
  SPLASH_HD double alpha() const { return alpha_; }
  template <class Value>
  SPLASH_HD Value slope(Value base) const {
    return math::power(base, math::Scalar<Value>(of_base));
  }
  template <class Value>
  SPLASH_HD Value root(Value total) const {
    return math::power(total, math::Scalar<Value>(of_total));
  }
};

/// run(exponent), with the fastest exponent for this alpha.
template <class Run>
auto by_alpha(double alpha, const Run& run) {
  if (alpha == 1.5) return run(SquareExponent{});
  if (alpha == 2.0) return run(UnitExponent{});
  return run(PowerExponent{});
}

/// Entmax of the numbers themselves: no scale.
template <class Real, class Exponent>
SPLASH_HD Entmax<Real, Exponent> entmax_of_numbers(double alpha) {
  const Exponent exponent = Exponent::from(alpha);
  return {Real(exponent.alpha() - 1.0), exponent};
}

/// u = p^(2 - alpha) on the support, 0 off it; NaN at NaN.
template <class Exponent, class Value>
SPLASH_HD Value slope_of_weight(const Exponent& exponent, Value p) {
  return math::select(p == Value(0), Value(0), math::select(p == p, exponent.root(p), p));
}

/// The row of one Value: one row, or a row a lane. A NaN or +inf makes the whole row NaN, as softmax does; a row of
/// nothing but -inf gets zeros. `Reduce` combines those who share the row: max(x) keeps a NaN, sums(a, b) adds up both,
/// any(again) is the same for all who must go on together.
template <class Real, class Exponent, class Value>
class EntmaxRow {
 public:
  using Normalizer = Entmax<Real, Exponent>;

  /// max: of the values that the caller has seen, a NaN where it has seen one.
  template <class Reduce>
  SPLASH_HD EntmaxRow(const Normalizer& n, Value max, const Reduce& reduce) : n_(n) {
    state_.max[0] = reduce.max(max);
    state_.refine(n_, Combined{});
    const Value infinity(math::kInfinity<Real>);
    state_.max[0] = math::select(state_.max[0] == infinity, infinity - infinity, state_.max[0]);
  }

  /// The row's maximum; values are handed over less this from now on, which saves a subtraction at each look at them.
  SPLASH_HD Value center() {
    const Value max = state_.max[0];
    state_.max[0] = Value(Real(0));
    return max;
  }

  /// Moves tau from a lower bound to the tau of these values, which is a lower bound of any larger set.
  /// fragments(observe) hands all of the caller's values to observe(fragment), a short fragment at a time.
  template <class Fragments, class Reduce>
  SPLASH_HD void solve(const Fragments& fragments, const Reduce& reduce) {
    state_.step = 1;
    Value total, slope, before;
    bool again;
    do {
      // Sums of sums, with what their additions lose (Knuth): thousands of tiny weights beside a large one count.
      Value lost(Real(0));
      total = slope = lost;
      fragments([&](const auto& fragment) {
        state_.observe(n_, fragment);
        const Value more = state_.total[0], sum = total + more, added = sum - total;
        if constexpr (kCompensates) lost = lost + ((total - (sum - added)) + (more - added));
        total = sum;
        slope = slope + state_.slope[0];
        state_.total[0] = state_.slope[0] = Value(Real(0));
      });
      total = total + lost;
      reduce.sums(total, slope);
      state_.total[0] = total;
      state_.slope[0] = slope;
      before = state_.gap[0];
      again = state_.refine(n_, Combined{});
    } while (reduce.any(again));
    if constexpr (kCompensates) {
      // What the last step lacked, or gap's rounding left of it, is beta times as much in the weights.
      const Value beta(Real(1.0 / (n_.exponent.alpha() - 1.0))), none(Real(0));
      const Value missed = (before - state_.gap[0]) - n_.change(total, slope);
      missed_ = math::select(slope > none, missed * beta, none);
    }
  }

  /// [z - tau]+ at the present tau.
  SPLASH_HD Value base(Value raw) const { return n_.base(raw, state_.max[0], state_.gap[0]); }
  /// To first order that of the base plus what gap misses.
  SPLASH_HD Value weight_of(Value base) const {
    if constexpr (kCompensates)
      return math::relu(base + missed_) * n_.exponent.slope(base);
    else
      return n_.weight(base);
  }
  SPLASH_HD Value weight(Value raw) const { return weight_of(base(raw)); }

 private:
  /// Double has digits to spare.
  static constexpr bool kCompensates = sizeof(Real) < sizeof(double);

  /// The reduction of values that are combined already.
  struct Combined {
    SPLASH_HD Value max(Value x) const { return x; }
    SPLASH_HD Value sum(Value x) const { return x; }
  };

  Normalizer n_;
  typename Normalizer::template Rows<Value, 1> state_;
  Value missed_{Real(0)};  ///< by gap's rounding, times beta
};

/// d x = u (g - sum(u g) / sum(u)), from the two sums.
template <class Value>
SPLASH_HD Value entmax_delta(Value mass, Value moment) {
  return math::select(mass == Value(0), Value(0), moment / mass);
}

}  // namespace normalizers
SPLASH_NAMESPACE_END
