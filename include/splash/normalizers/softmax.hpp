// Softmax: p_j = exp(s_j - lse). Online in one sweep (Milakov & Gimelshein 2018, Dao et al. 2022).
#pragma once

#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

template <class Real>
struct Softmax {
  static constexpr bool kScoreSweeps = false;
  static constexpr bool kRescales = true;
  static constexpr bool kDeltaSweep = false;
  static constexpr int kSaved = 0;
  static constexpr double kSlack = 8;  ///< exponents of 2

  Real factor;  ///< raw score -> exponent of 2

  static SPLASH_HD Softmax from(const NormalizerSpec&, double scale) { return {Real(scale * math::kLog2E)}; }

  /// Backward on a GPU, which keeps of a row two numbers alone: `shift`, an exponent of 2, and `delta`.
  SPLASH_HD RowStats<Real> row_stats(Real statistic, Real output_dot, Real dstatistic) const {
    return {statistic * Real(math::kLog2E), output_dot - dstatistic};
  }
  SPLASH_HD Real weight_of(Real score, Real shift) const { return math::exp2(math::fma(score, factor, -shift)); }
  /// weight_of(score, shift) is weight_of(score + shift * shift_factor(), 0).
  SPLASH_HD Real shift_factor() const { return Real(-1) / factor; }
  SPLASH_HD Real dscore_of(Real weight, Real dp, Real delta) const { return weight * (dp - delta); }

  /// What takes part in the denominator beside the keys, over exp(shift).
  SPLASH_HD Real extra_mass(int, Real) const { return 0; }

  /// The statistic of a row that kept nothing.
  template <class Value>
  static SPLASH_HD Value empty_statistic() {
    return Value(-math::kInfinity<Real>);
  }

  template <class Value>
  static SPLASH_HD auto masked(Value raw) {
    return raw == Value(-math::kInfinity<Real>);
  }

  template <class Value, int R>
  struct Rows {
    Value max[R];  ///< of factor * raw score: the running maximum, or less than kSlack below it
    Value sum[R];  ///< this thread's share of sum exp2(. - max)

    static constexpr int kChains = 2;  ///< a row: on a GPU one would wait for itself

    SPLASH_HD Rows() {
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) max[r] = Value(-math::kInfinity<Real>), sum[r] = Value(0);
    }

    /// Goes on from other keys of the same row: their log-sum-exp, and their normalized output in place of a sum of
    /// values. One of the threads that share the row counts them.
    SPLASH_HD void resume(int r, Value lse, bool counts) {
      max[r] = lse * Value(Real(math::kLog2E));
      sum[r] = counts && lse != Value(-math::kInfinity<Real>) ? Value(1) : Value(0);
    }

    template <class Fragment, class Reduce>
    SPLASH_HD void meet(const Softmax& n, const Fragment& fragment, Value (&rescale)[R], const Reduce& reduce) {
      Value highest[R][kChains];
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        SPLASH_UNROLL
        for (int chain = 0; chain < kChains; ++chain) highest[r][chain] = Value(-math::kInfinity<Real>);
      }
      SPLASH_UNROLL
      for (int c = 0; c < fragment.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) highest[r][c % kChains] = math::max(highest[r][c % kChains], fragment.get(r, c));
      }
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        SPLASH_UNROLL
        for (int chain = 1; chain < kChains; ++chain) highest[r][0] = math::max(highest[r][0], highest[r][chain]);
        const Value found = reduce.max(highest[r][0]) * Value(n.factor);
        // Weights may pass 1 a little before it pays to rescale what is there (Flash Attention 4).
        const Value next = math::select(found > max[r] + Value(Real(kSlack)), found, max[r]);
        rescale[r] = math::exp2(max[r] - finite(next));
        sum[r] = sum[r] * rescale[r];
        max[r] = next;
      }
    }

    template <class Fragment>
    SPLASH_HD void weigh(const Softmax& n, Fragment& fragment) {
      Value shift[R], sums[R][kChains];
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        shift[r] = finite(max[r]);
        SPLASH_UNROLL
        for (int chain = 0; chain < kChains; ++chain) sums[r][chain] = Value(0);
      }
      SPLASH_UNROLL
      for (int c = 0; c < fragment.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value weight = math::exp2(math::fma(fragment.get(r, c), Value(n.factor), -shift[r]));
          sums[r][c % kChains] = sums[r][c % kChains] + weight;
          fragment.set(r, c, weight);
        }
      }
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        SPLASH_UNROLL
        for (int chain = 0; chain < kChains; ++chain) sum[r] = sum[r] + sums[r][chain];
      }
    }

    /// Rows that kept nothing so far: any finite shift turns -inf into weight 0 without a NaN.
    static SPLASH_HD Value finite(Value max) {
      return math::select(max == Value(-math::kInfinity<Real>), Value(0), max);
    }

    template <class Reduce>
    SPLASH_HD void finish(const Softmax&, const Reduce& reduce) {
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) sum[r] = reduce.sum(sum[r]);
    }

    SPLASH_HD Value output_factor(const Softmax&, int r) const {
      return math::select(sum[r] == Value(0), Value(0), Value(1) / sum[r]);
    }
    SPLASH_HD Value statistic(const Softmax&, int r) const {
      return max[r] * Value(Real(math::kLn2)) + math::log(sum[r]);
    }
    SPLASH_HD Value saved(int, int) const { return Value(0); }
  };

  template <class Value, int R>
  struct Gradient {
    Value lse[R];  ///< in exponents of 2; +inf for rows that kept nothing, so that every weight is 0
    Value delta[R];
    Value mean[R];  ///< sum exp(s - lse) dP
    Value mass[R];  ///< sum exp(s - lse): 1, but for the rounding of lse, which large scores make large

    template <class Saved>
    SPLASH_HD void load(const Softmax&, int r, Value statistic, const Saved&) {
      const Value scaled = statistic * Value(Real(math::kLog2E));
      lse[r] = math::select(statistic == Value(-math::kInfinity<Real>), Value(math::kInfinity<Real>), scaled);
      mean[r] = mass[r] = Value(0);
    }

    template <class Scores, class Dp>
    SPLASH_HD void observe(const Softmax& n, const Scores& scores, const Dp& dp) {
      SPLASH_UNROLL
      for (int c = 0; c < scores.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value raw = scores.get(r, c), weight = math::exp2(math::fma(raw, Value(n.factor), -lse[r]));
          mean[r] = mean[r] + math::select(masked(raw), Value(0), weight * dp.get(r, c));
          mass[r] = mass[r] + weight;
        }
      }
    }

    template <class Reduce>
    SPLASH_HD Value output_dot(const Softmax&, int r, const Reduce& reduce) const {
      return reduce.sum(mean[r]) / reduce.sum(mass[r]);
    }

    /// d lse / d s_j = p_j, so the statistic's gradient only shifts delta.
    template <class Reduce>
    SPLASH_HD void close(const Softmax&, int r, Value output_dot, Value dstatistic, const Reduce&) {
      delta[r] = output_dot - dstatistic;
    }

    template <class Scores, class Dp>
    SPLASH_HD void apply(const Softmax& n, Scores& scores, Dp& dp) const {
      SPLASH_UNROLL
      for (int c = 0; c < scores.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value raw = scores.get(r, c), weight = math::exp2(math::fma(raw, Value(n.factor), -lse[r]));
          scores.set(r, c, weight);
          dp.set(r, c, math::select(masked(raw), Value(0), weight * (dp.get(r, c) - delta[r])));
        }
      }
    }
  };
};

}  // namespace normalizers
SPLASH_NAMESPACE_END
