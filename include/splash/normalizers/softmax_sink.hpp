// Softmax with a learned logit a head that takes part in the denominator only ("attention sink": Xiao et al. 2024, as a
// parameter in gpt-oss 2025): p_j = exp(s_j) / (sum exp(s) + exp(sink)).
#pragma once

#include "splash/normalizers/softmax.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// The statistic is the log-sum-exp of the keys alone, so the weights are exp(s - lse) * share, where
/// share = 1 / (1 + exp(sink - lse)) is what the sink leaves to the keys. Neither factor can overflow.
///
/// The gradient of the sink is a sum of rowsum(dO * O) over all rows. An output that was rounded to 16 bits loses more
/// there than the sum may, so the backward sweeps over the scores for the same number.
template <class Real>
struct SoftmaxSink : Softmax<Real> {
  static constexpr bool kDeltaSweep = true;
  static constexpr int kRowGradients = 1;
  static constexpr bool kHeadInWeights = false;  ///< among the keys

  const Real* sinks;                   ///< (Hq,); nullptr: no sink
  Real sink = -math::kInfinity<Real>;  ///< that of this head, as an exponent of 2

  static SPLASH_HD SoftmaxSink from(const NormalizerSpec& spec, double scale) {
    return {Softmax<Real>::from(spec, scale), static_cast<const Real*>(spec.parameters[0].data)};
  }

  SPLASH_HD SoftmaxSink of_head(int head) const {
    SoftmaxSink n = *this;
    if (sinks) n.sink = sinks[head] * Real(math::kLog2E);
    return n;
  }

  SPLASH_HD Real extra_mass(int head, Real shift) const {
    return sinks ? math::exp2((sinks[head] - shift) * Real(math::kLog2E)) : Real(0);
  }

  /// With the sink in the denominator P = exp(s - lse) share, so log(share) goes into the shift. A share that is next
  /// to nothing is held at 2^-60: P is no number that matters then, and what the statistic's gradient asks for comes
  /// back from P / share.
  SPLASH_HD RowStats<Real> row_stats(Real statistic, Real output_dot, Real dstatistic) const {
    RowStats<Real> numbers = Softmax<Real>::row_stats(statistic, output_dot, dstatistic);
    const Real share = math::max(Real(1) / (Real(1) + math::exp2(sink - numbers.shift)), Real(0x1p-60));
    return {numbers.shift - math::log2(share), output_dot - dstatistic / share};
  }

  SPLASH_HD Real row_gradient(Real statistic, Real output_dot) const {
    return -output_dot / (Real(1) + math::exp2(statistic * Real(math::kLog2E) - sink));
  }

  template <class Value, int R>
  struct Rows : Softmax<Real>::template Rows<Value, R> {
    using Base = typename Softmax<Real>::template Rows<Value, R>;

    SPLASH_HD Value output_factor(const SoftmaxSink& n, int r) const {
      const Value total = Base::sum[r] + math::exp2(Value(n.sink) - Base::max[r]);
      return math::select(Base::sum[r] == Value(0), Value(0), Value(1) / total);
    }
  };

  template <class Value, int R>
  struct Gradient : Softmax<Real>::template Gradient<Value, R> {
    using Base = typename Softmax<Real>::template Gradient<Value, R>;
    Value share[R];
    Value of_sink[R];

    template <class Saved>
    SPLASH_HD void load(const SoftmaxSink& n, int r, Value statistic, const Saved& saved) {
      Base::load(n, r, statistic, saved);
      share[r] = Value(1) / (Value(1) + math::exp2(Value(n.sink) - Base::lse[r]));
    }

    /// With q = exp(s - lse), dS = q (share (dP - dO.O) + dstatistic): delta is all of it that belongs to the row.
    template <class Reduce>
    SPLASH_HD void close(const SoftmaxSink& n, int r, Value, Value dstatistic, const Reduce& reduce) {
      const Value output_dot = share[r] * Base::output_dot(n, r, reduce);
      const Value taken = Value(1) / (Value(1) + math::exp2(Base::lse[r] - Value(n.sink)));
      of_sink[r] = -(taken * output_dot);
      Base::delta[r] = share[r] * output_dot - dstatistic;
    }

    SPLASH_HD Value row_gradient(const SoftmaxSink&, int r, int) const { return of_sink[r]; }

    template <class Scores, class Dp>
    SPLASH_HD void apply(const SoftmaxSink& n, Scores& scores, Dp& dp) const {
      SPLASH_UNROLL
      for (int c = 0; c < scores.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) {
          const Value raw = scores.get(r, c);
          const Value among_keys = math::exp2(math::fma(raw, Value(n.factor), -Base::lse[r]));
          const Value ds = among_keys * (share[r] * dp.get(r, c) - Base::delta[r]);
          scores.set(r, c, among_keys * share[r]);
          dp.set(r, c, math::select(n.masked(raw), Value(0), ds));
        }
      }
    }
  };
};

}  // namespace normalizers
SPLASH_NAMESPACE_END
