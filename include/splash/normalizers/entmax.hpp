// alpha-entmax (Peters, Niculae & Martins 2019): p_j = [z_j - tau]+^beta, z = (alpha - 1) s, beta = 1 / (alpha - 1),
// with tau such that the weights sum to 1. Exact tau by Newton steps from below, over as many score sweeps as it takes.
#pragma once

#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// alpha = 1.5: beta = 2, and u = p^(2 - alpha) is the base itself.
struct SquareExponent {
  static SPLASH_HD SquareExponent from(double) { return {}; }
  SPLASH_HD double alpha() const { return 1.5; }
  template <class Value>
  SPLASH_HD Value slope(Value base) const {
    return base;
  }
  template <class Value>
  SPLASH_HD Value root(Value total) const {
    return math::sqrt(total);
  }
};

/// Any alpha in (1, 2]. Where beta is 2, 3 or 4 a power is a product or two.
struct GeneralExponent {
  double alpha_;
  int whole_;  ///< beta - 1 where it is 1, 2 or 3; else 0
  static SPLASH_HD GeneralExponent from(double alpha) {
    int whole = 0;
    for (int n = 1; n <= 3; ++n)
      if (alpha == 1.0 + 1.0 / (n + 1)) whole = n;
    return {alpha, whole};
  }
  SPLASH_HD double alpha() const { return alpha_; }
  SPLASH_HD bool is_square() const { return whole_ == 1; }
  /// base^(beta - 1) = p^(2 - alpha), 0 off the support
  template <class Value>
  SPLASH_HD Value slope(Value base) const {
    if (whole_) return whole_ == 1 ? base : whole_ == 2 ? base * base : base * base * base;
    return alpha_ == 2.0 ? math::select(base == Value(0), Value(0), Value(1))
                         : math::power(base, exponent<Value>(2.0 - alpha_));
  }
  /// total^(1 - 1/beta)
  template <class Value>
  SPLASH_HD Value root(Value total) const {
    if (whole_ == 1) return math::sqrt(total);
    return alpha_ == 2.0 ? Value(1) : math::power(total, math::Scalar<Value>(2.0 - alpha_));
  }

 private:
  template <class Value>
  SPLASH_HD math::Scalar<Value> exponent(double numerator) const {
    return math::Scalar<Value>(numerator / (alpha_ - 1.0));
  }
};

/// use(exponent), with the simplest exponent that is the same: a loop over scores asks once.
template <class Exponent, class Use>
SPLASH_HD void with_simplest(const Exponent& exponent, const Use& use) {
  if constexpr (requires { exponent.is_square(); })
    if (exponent.is_square()) return use(SquareExponent{});
  use(exponent);
}

/// The statistic is tau. Saved beside it: the row maximum of the raw scores and the gap between its z and tau. Weights
/// come from (raw - max) * factor + gap: 0 + gap at the maximum whether or not a compiler fuses the product with a sum,
/// which keeps float32 accuracy at any magnitude of the scores. z - tau, or a z of its own rounding, does not.
template <class Real, class Exponent>
struct Entmax {
  static constexpr bool kScoreSweeps = true;
  static constexpr bool kRescales = false;
  static constexpr bool kDeltaSweep = true;
  static constexpr bool kCandidates = true;
  static constexpr int kSaved = 2;
  static constexpr int kMaxSteps = 64;  ///< Newton converges in about 5; this only bounds rows with NaN or inf

  Real factor;  ///< raw score -> z
  Exponent exponent;

  static SPLASH_HD Entmax from(const NormalizerSpec& spec, double scale) {
    const Exponent exponent = Exponent::from(spec.floats[0]);
    return {Real(scale * (exponent.alpha() - 1.0)), exponent};
  }

  /// The statistic of a row that kept nothing.
  template <class Value>
  static SPLASH_HD Value empty_statistic() {
    return Value(math::kInfinity<Real>);
  }

  /// [z - tau]+ of one raw score; 0 for a masked one, and for every score of a row that kept nothing (gap 0, max -inf
  /// replaced by 0). The same rounding in every sweep and in the backward.
  template <class Value>
  SPLASH_HD Value base(Value raw, Value max, Value gap) const {
    return math::relu(math::fma(raw - max, Value(factor), gap));
  }

  /// base^beta, by the one power that the slope needs too.
  template <class Value>
  SPLASH_HD Value weight(Value base) const {
    return base * exponent.slope(base);
  }

  /// What tau lacks: (F_beta - F_beta^(1 - 1/beta)) / F_(beta - 1) never passes the root either and is more than
  /// Newton's own step; near the root, where they are the same, it would be the difference of two rounded numbers.
  template <class Value>
  SPLASH_HD Value change(Value sum, Value mass) const {
    const Value newton = (sum - Value(1)) * Value(Real(exponent.alpha() - 1.0));
    return math::select(sum > Value(Real(1.5)), sum - exponent.root(sum), newton) / mass;
  }

  template <class Value, int R>
  struct Rows {
    Value max[R];    ///< of the raw scores
    Value gap[R];    ///< z of the maximum, less tau
    Value total[R];  ///< sum of weights at the current gap
    Value slope[R];  ///< sum of base^(beta - 1)
    int step;

    SPLASH_HD Rows() : step(0) {
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        max[r] = Value(-math::kInfinity<Real>);
        gap[r] = Value(1);
        total[r] = slope[r] = Value(0);
      }
    }

    /// The first sweep finds the maximum, the later ones the two sums of a Newton step.
    template <class Fragment>
    SPLASH_HD void observe(const Entmax& n, Fragment& fragment) {
      if (step == 0) {
        SPLASH_UNROLL
        for (int c = 0; c < fragment.columns(); ++c) {
          SPLASH_UNROLL
          for (int r = 0; r < R; ++r) max[r] = math::max(max[r], fragment.get(r, c));
        }
      } else {
        with_simplest(n.exponent, [&](const auto& exponent) {
          SPLASH_UNROLL
          for (int c = 0; c < fragment.columns(); ++c) {
            SPLASH_UNROLL
            for (int r = 0; r < R; ++r) {
              const Value base = n.base(fragment.get(r, c), max[r], gap[r]);
              const Value u = exponent.slope(base);
              total[r] = total[r] + base * u;
              slope[r] = slope[r] + u;
            }
          }
        });
      }
    }

    /// tau grows from m - 1 towards the root of sum - 1 = 0 and passes it by rounding alone. A row stays where its step
    /// is too short, however long those go on that share the loop with it: its weights are its own.
    template <class Reduce>
    SPLASH_HD bool refine(const Entmax& n, const Reduce& reduce) {
      if (step++ == 0) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          max[r] = reduce.max(max[r]);
          const auto kept_none = max[r] == Value(-math::kInfinity<Real>);
          gap[r] = math::select(kept_none, Value(0), gap[r]);
          max[r] = math::select(kept_none, Value(0), max[r]);
        }
        return true;
      }
      bool again = false;
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        const Value sum = reduce.sum(total[r]), mass = reduce.sum(slope[r]);
        const Value change = n.change(sum, mass);
        const auto moved = change > gap[r] * Value(4 * math::kEpsilon<Real>);
        gap[r] = math::select(moved, gap[r] - change, gap[r]);
        again = again || math::any(moved);
        total[r] = slope[r] = Value(0);
      }
      return again && step < kMaxSteps;
    }

    template <class Fragment>
    SPLASH_HD void weigh(const Entmax& n, Fragment& fragment) {
      with_simplest(n.exponent, [&](const auto& exponent) {
        SPLASH_UNROLL
        for (int c = 0; c < fragment.columns(); ++c) {
          SPLASH_UNROLL
          for (int r = 0; r < R; ++r) {
            const Value base = n.base(fragment.get(r, c), max[r], gap[r]);
            fragment.set(r, c, base * exponent.slope(base));
          }
        }
      });
    }

    template <class Reduce>
    SPLASH_HD void finish(const Entmax&, const Reduce&) {}

    /// tau of some keys is at most that of all, as is every step on the way to it.
    SPLASH_HD Value cut(const Entmax& n, int r) const { return max[r] - gap[r] / Value(n.factor); }

    SPLASH_HD Value output_factor(const Entmax&, int) const { return Value(1); }
    SPLASH_HD Value statistic(const Entmax& n, int r) const {
      return math::select(gap[r] == Value(0), empty_statistic<Value>(), max[r] * Value(n.factor) - gap[r]);
    }
    SPLASH_HD Value saved(int r, int s) const { return s == 0 ? max[r] : gap[r]; }
  };

  template <class Value, int R>
  struct Gradient {
    Value max[R], gap[R];
    Value delta[R];
    Value mass[R];    ///< sum of u
    Value moment[R];  ///< sum of u dP

    template <class Saved>
    SPLASH_HD void load(const Entmax&, int r, Value, const Saved& saved) {
      max[r] = saved(0);
      gap[r] = saved(1);
      delta[r] = mass[r] = moment[r] = Value(0);
    }

    template <class Scores, class Dp>
    SPLASH_HD void observe(const Entmax& n, const Scores& scores, const Dp& dp) {
      SPLASH_UNROLL
      for (int c = 0; c < scores.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value u = n.exponent.slope(n.base(scores.get(r, c), max[r], gap[r]));
          mass[r] = mass[r] + u;
          moment[r] = moment[r] + math::select(u == Value(0), Value(0), u * dp.get(r, c));
        }
      }
    }

    /// delta = sum(u dP) / sum(u); d tau / d s_j = (alpha - 1) u_j / sum(u) shifts it by the statistic's gradient.
    template <class Reduce>
    SPLASH_HD void close(const Entmax& n, int r, Value, Value dstatistic, const Reduce& reduce) {
      const Value total = reduce.sum(mass[r]);
      const Value numerator = reduce.sum(moment[r]) - dstatistic * Value(Real(n.exponent.alpha() - 1.0));
      delta[r] = math::select(total > Value(0), numerator / total, Value(0));
    }

    template <class Scores, class Dp>
    SPLASH_HD void apply(const Entmax& n, Scores& scores, Dp& dp) const {
      SPLASH_UNROLL
      for (int c = 0; c < scores.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value base = n.base(scores.get(r, c), max[r], gap[r]);
          const Value u = n.exponent.slope(base);
          scores.set(r, c, base * u);
          dp.set(r, c, math::select(u == Value(0), Value(0), u * (dp.get(r, c) - delta[r])));
        }
      }
    }
  };
};

}  // namespace normalizers
SPLASH_NAMESPACE_END
