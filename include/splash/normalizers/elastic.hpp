// Elastic softmax (Fu et al. 2026, "Lazy Attention"): a = softmax(s + b), weights ReLU(a + tau / (i + 1)) that are not
// normalized again.
#pragma once

#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// For patterns that keep no key after the query. A row at a position i < 0 counts as one that keeps nothing. The
/// statistic is the log-sum-exp of s + b. The mainloop adds b and collects its gradient from dS.
///
/// Saved: the row maximum of the raw scores and 1 / sum, from which the backward forms the very weights of the forward,
/// and so the same support. Exponents are (raw - max) * factor, which is 0 at the maximum: a row of n equal scores has
/// weights of just 1 / n, and with tau = -1 is exactly 0, where any rounding would decide about the gradient of tau.
template <class Real>
struct Elastic {
  static constexpr bool kScoreSweeps = true;
  static constexpr bool kRescales = false;
  static constexpr bool kDeltaSweep = true;
  static constexpr int kSaved = 2;
  static constexpr bool kBias = true;
  static constexpr int kRowGradients = 1;

  Real factor;         ///< raw score -> exponent of 2
  const Real* taus;    ///< (Hq,)
  const Real* biases;  ///< (Hq, distances); that of this head after of_head()
  int distances;
  Real tau = 0;

  static SPLASH_HD Elastic from(const NormalizerSpec& spec, double scale) {
    const TensorView &tau = spec.parameters[0], &bias = spec.parameters[1];
    return {Real(scale * math::kLog2E), static_cast<const Real*>(tau.data), static_cast<const Real*>(bias.data),
            int(bias.shape[1])};
  }

  SPLASH_HD Elastic of_head(int head) const {
    Elastic n = *this;
    n.tau = taus[head];
    n.biases = biases + int64_t(head) * distances;
    return n;
  }
  SPLASH_HD const Real* bias() const { return biases; }
  SPLASH_HD int bias_count() const { return distances; }

  /// The statistic of a row that kept nothing.
  template <class Value>
  static SPLASH_HD Value empty_statistic() {
    return Value(-math::kInfinity<Real>);
  }

  /// 1 / (i + 1), or 0 before the first position.
  template <class Value>
  static SPLASH_HD Value reciprocal(Value i) {
    return math::select(i < Value(0), Value(0), Value(1) / (i + Value(1)));
  }

  /// a * sum of a raw score, 0 for a masked one.
  template <class Value>
  SPLASH_HD Value exponential(Value raw, Value max) const {
    return math::exp2((raw - max) * Value(factor));
  }

  /// a, rounded before anything is added to it: the choice keeps compilers from fusing the two in one place and not in
  /// the other, which would give the backward other weights than the forward. 0 throughout a row before position 0.
  template <class Value>
  SPLASH_HD Value share(Value raw, Value max, Value inverse) const {
    const Value share = math::select(masked(raw), Value(0), exponential(raw, max) * inverse);
    return math::select(inverse == Value(0), Value(0), share);
  }

  template <class Value>
  static SPLASH_HD Value weight(Value raw, Value share, Value offset) {
    return math::select(masked(raw), Value(0), math::relu(share + offset));
  }

  template <class Value>
  static SPLASH_HD auto masked(Value raw) {
    return raw == Value(-math::kInfinity<Real>);
  }

  template <class Value>
  static SPLASH_HD Value finite(Value max) {
    return math::select(masked(max), Value(0), max);
  }

  template <class Value, int R>
  struct Rows {
    Value per_position[R];  ///< 1 / (i + 1)
    Value max[R];           ///< of the raw scores
    Value sum[R];           ///< this thread's share of the sum of exponentials
    Value inverse[R];

    SPLASH_HD Rows() {
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        max[r] = Value(-math::kInfinity<Real>);
        per_position[r] = sum[r] = inverse[r] = Value(0);
      }
    }

    SPLASH_HD void place(const Elastic&, int r, Value i) { per_position[r] = reciprocal(i); }

    template <class Fragment>
    SPLASH_HD void observe(const Elastic& n, Fragment& fragment) {
      Value shift[R];
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        Value next = max[r];
        SPLASH_UNROLL
        for (int c = 0; c < fragment.columns(); ++c) next = math::max(next, fragment.get(r, c));
        shift[r] = finite(next);
        sum[r] = sum[r] * n.exponential(max[r], shift[r]);
        max[r] = next;
      }
      SPLASH_UNROLL
      for (int c = 0; c < fragment.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) sum[r] = sum[r] + n.exponential(fragment.get(r, c), shift[r]);
      }
    }

    template <class Reduce>
    SPLASH_HD bool refine(const Elastic& n, const Reduce& reduce) {
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        const Value shift = finite(reduce.max(max[r]));
        const Value all = reduce.sum(sum[r] * n.exponential(max[r], shift));
        const auto before = per_position[r] == Value(0);
        max[r] = math::select(before, Value(0), shift);
        sum[r] = math::select(before, Value(0), all);
        inverse[r] = math::select(sum[r] == Value(0), Value(0), Value(1) / sum[r]);
      }
      return false;
    }

    template <class Fragment>
    SPLASH_HD void weigh(const Elastic& n, Fragment& fragment) {
      SPLASH_UNROLL
      for (int c = 0; c < fragment.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value raw = fragment.get(r, c), share = n.share(raw, max[r], inverse[r]);
          fragment.set(r, c, weight(raw, share, Value(n.tau) * per_position[r]));
        }
      }
    }

    template <class Reduce>
    SPLASH_HD void finish(const Elastic&, const Reduce&) {}

    SPLASH_HD Value output_factor(const Elastic&, int) const { return Value(1); }
    SPLASH_HD Value statistic(const Elastic& n, int r) const {
      return max[r] * Value(n.factor) * Value(Real(math::kLn2)) + math::log(sum[r]);
    }
    SPLASH_HD Value saved(int r, int s) const { return s == 0 ? max[r] : inverse[r]; }
  };

  /// With M = 1 where the weight is not 0 and a = softmax(s + b): delta = sum a M dP, dS = a (M dP - delta), and
  /// d tau = sum M dP / (i + 1). d lse / d s_j = a_j, so the statistic's gradient only shifts delta.
  template <class Value, int R>
  struct Gradient {
    Value per_position[R];
    Value max[R], inverse[R];
    Value delta[R];
    Value mass[R];    ///< sum of M dP
    Value moment[R];  ///< sum of a M dP

    template <class Saved>
    SPLASH_HD void load(const Elastic&, int r, Value, const Saved& saved) {
      max[r] = saved(0);
      inverse[r] = saved(1);
      per_position[r] = delta[r] = mass[r] = moment[r] = Value(0);
    }

    SPLASH_HD void place(const Elastic&, int r, Value i) { per_position[r] = reciprocal(i); }

    template <class Scores, class Dp>
    SPLASH_HD void observe(const Elastic& n, const Scores& scores, const Dp& dp) {
      SPLASH_UNROLL
      for (int c = 0; c < scores.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value raw = scores.get(r, c), share = n.share(raw, max[r], inverse[r]);
          const Value weight = Elastic::weight(raw, share, Value(n.tau) * per_position[r]);
          const Value kept = math::select(weight == Value(0), Value(0), dp.get(r, c));
          mass[r] = mass[r] + kept;
          moment[r] = math::fma(share, kept, moment[r]);
        }
      }
    }

    template <class Reduce>
    SPLASH_HD void close(const Elastic&, int r, Value, Value dstatistic, const Reduce& reduce) {
      mass[r] = reduce.sum(mass[r]);
      delta[r] = reduce.sum(moment[r]) - dstatistic;
    }

    SPLASH_HD Value row_gradient(const Elastic&, int r, int) const { return mass[r] * per_position[r]; }

    template <class Scores, class Dp>
    SPLASH_HD void apply(const Elastic& n, Scores& scores, Dp& dp) const {
      SPLASH_UNROLL
      for (int c = 0; c < scores.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value raw = scores.get(r, c), share = n.share(raw, max[r], inverse[r]);
          const Value weight = Elastic::weight(raw, share, Value(n.tau) * per_position[r]);
          const Value kept = math::select(weight == Value(0), Value(0), dp.get(r, c));
          scores.set(r, c, weight);
          dp.set(r, c, math::select(masked(raw), Value(0), share * (kept - delta[r])));
        }
      }
    }
  };
};

}  // namespace normalizers
SPLASH_NAMESPACE_END
