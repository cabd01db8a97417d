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
    Value total, slope;
    bool again;
    do {
      // Sums of sums: one long chain of additions would lose digits.
      total = slope = Value(Real(0));
      fragments([&](const auto& fragment) {
        state_.observe(n_, fragment);
        total = total + state_.total[0];
        slope = slope + state_.slope[0];
        state_.total[0] = state_.slope[0] = Value(Real(0));
      });
      reduce.sums(total, slope);
      state_.total[0] = total;
      state_.slope[0] = slope;
      again = state_.refine(n_, Combined{});
    } while (reduce.any(again));
    // The rounding of the first, long steps may have passed the root; they never go back, so this does.
    const Value zero(Real(0)), change = math::select(slope > zero, (total - n_.exponent.root(total)) / slope, zero);
    state_.gap[0] = math::select(change < zero, state_.gap[0] - change, state_.gap[0]);
  }

  /// [z - tau]+ at the present tau.
  SPLASH_HD Value base(Value raw) const { return n_.base(raw, state_.max[0], state_.gap[0]); }
  SPLASH_HD Value weight(Value raw) const { return n_.weight(base(raw)); }

 private:
  /// The reduction of values that are combined already.
  struct Combined {
    SPLASH_HD Value max(Value x) const { return x; }
    SPLASH_HD Value sum(Value x) const { return x; }
  };

  Normalizer n_;
  typename Normalizer::template Rows<Value, 1> state_;
};

/// d x = u (g - sum(u g) / sum(u)), from the two sums.
template <class Value>
SPLASH_HD Value entmax_delta(Value mass, Value moment) {
  return math::select(mass == Value(0), Value(0), moment / mass);
}

}  // namespace normalizers
SPLASH_NAMESPACE_END
