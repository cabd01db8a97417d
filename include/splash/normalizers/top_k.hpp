// Top-k: the k largest kept scores of a row, exactly, then another normalizer over those alone.
#pragma once

#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/largest.hpp"
#include "splash/normalizers/softmax.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// The numbers of Inner come first, k is the last. Of equal scores the keys with the smaller columns are taken; a NaN
/// counts as taken, so that it spreads. Saved: the least score that is taken and the last column that is taken of those
/// with just that score, then what Inner saves. The selection is constant in the gradient.
template <class Inner>
struct TopK : Inner {
  static constexpr bool kScoreSweeps = true;
  static constexpr bool kColumn = true;
  static constexpr int kSaved = 2 + Inner::kSaved;

  double k;

  static SPLASH_HD TopK from(const NormalizerSpec& spec, double scale) {
    return {Inner::from(spec, scale), spec.floats[spec.num_floats - 1]};
  }

  /// What is taken of R rows.
  template <class Value, int R>
  struct Selection {
    using Real = math::Scalar<Value>;
    Value threshold[R];
    Value last[R];

    template <class Fragment>
    SPLASH_HD Value get(const Fragment& fragment, int r, int c) const {
      const Value raw = fragment.get(r, c), masked(-math::kInfinity<Real>);
      const Value at_threshold = math::select(fragment.column(c) > last[r], masked, raw);
      return math::select(raw < threshold[r], masked, math::select(raw == threshold[r], at_threshold, raw));
    }

    template <class Fragment>
    SPLASH_HD void drop_others(Fragment& fragment) const {
      SPLASH_UNROLL
      for (int c = 0; c < fragment.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) fragment.set(r, c, get(fragment, r, c));
      }
    }
  };

  /// A fragment in which all others are masked.
  template <class Fragment, class Value, int R>
  struct View {
    const Fragment& fragment;
    const Selection<Value, R>& selection;
    SPLASH_HD int columns() const { return fragment.columns(); }
    SPLASH_HD Value column(int c) const { return fragment.column(c); }
    SPLASH_HD Value get(int r, int c) const { return selection.get(fragment, r, c); }
  };

  template <class Value, int R>
  struct Rows : Inner::template Rows<Value, R> {
    using Base = typename Inner::template Rows<Value, R>;
    using Real = math::Scalar<Value>;

    /// First the k-th largest score; then, where only some of the scores equal to it are taken, the last of their
    /// columns, as the largest in falling order; then what Inner wants to see of the selection.
    enum class Phase { scores, columns, inner };

    Phase phase;
    int sweep;
    Largest<Value> search[R];
    Value ties[R];  ///< how many of the scores equal to the threshold are taken, +inf for all
    Selection<Value, R> selection;

    SPLASH_HD Rows() : phase(Phase::scores), sweep(0) {
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        selection.threshold[r] = Value(-math::kInfinity<Real>);
        selection.last[r] = ties[r] = Value(math::kInfinity<Real>);
      }
    }

    template <class Fragment>
    SPLASH_HD void observe(const TopK& n, Fragment& fragment) {
      if (phase == Phase::scores) {
        visit(fragment, [&](int r, int c) { return fragment.get(r, c); });
      } else if (phase == Phase::columns) {
        visit(fragment, [&](int r, int c) {
          const Value none(-math::kInfinity<Real>);
          return math::select(fragment.get(r, c) == selection.threshold[r], -fragment.column(c), none);
        });
      } else if constexpr (Inner::kScoreSweeps) {
        const View<Fragment, Value, R> view{fragment, selection};
        Base::observe(n, view);
      }
    }

    template <class Reduce>
    SPLASH_HD bool refine(const TopK& n, const Reduce& reduce) {
      if (phase == Phase::inner) {
        if constexpr (Inner::kScoreSweeps) return Base::refine(n, reduce);
        return false;
      }
      const bool scores = phase == Phase::scores;
      const Value k(Real(n.k));
      bool again = false;
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) again = search[r].narrow(sweep, scores ? k : ties[r], reduce) || again;
      ++sweep;
      if (again) return true;
      sweep = 0;
      phase = Phase::inner;
      SPLASH_UNROLL
      for (int r = 0; r < R; ++r) {
        if (scores) {
          selection.threshold[r] = search[r].low;
          ties[r] = search[r].ties(k);
          if (math::any(ties[r] < Value(math::kInfinity<Real>))) phase = Phase::columns;
        }
        selection.last[r] = scores ? Value(math::kInfinity<Real>) : -search[r].low;
        search[r] = Largest<Value>();
      }
      return phase == Phase::columns || Inner::kScoreSweeps;
    }

    template <class Fragment, class Reduce>
    SPLASH_HD void meet(const TopK& n, Fragment& fragment, Value (&rescale)[R], const Reduce& reduce) {
      selection.drop_others(fragment);
      Base::meet(n, fragment, rescale, reduce);
    }

    template <class Fragment>
    SPLASH_HD void weigh(const TopK& n, Fragment& fragment) {
      if constexpr (!Inner::kRescales) selection.drop_others(fragment);
      Base::weigh(n, fragment);
    }

    SPLASH_HD Value saved(int r, int s) const {
      return s == 0 ? selection.threshold[r] : (s == 1 ? selection.last[r] : Base::saved(r, s - 2));
    }

   private:
    template <class Fragment, class Key>
    SPLASH_HD void visit(const Fragment& fragment, const Key& key) {
      SPLASH_UNROLL
      for (int c = 0; c < fragment.columns(); ++c) {
        SPLASH_UNROLL
        for (int r = 0; r < R; ++r) sweep == 0 ? search[r].enter(key(r, c)) : search[r].count(key(r, c));
      }
    }
  };

  template <class Value, int R>
  struct Gradient : Inner::template Gradient<Value, R> {
    using Base = typename Inner::template Gradient<Value, R>;
    Selection<Value, R> selection;

    template <class Saved>
    SPLASH_HD void load(const TopK& n, int r, Value statistic, const Saved& saved) {
      selection.threshold[r] = saved(0);
      selection.last[r] = saved(1);
      Base::load(n, r, statistic, [&](int s) { return saved(s + 2); });
    }

    template <class Scores, class Dp>
    SPLASH_HD void observe(const TopK& n, const Scores& scores, const Dp& dp) {
      Base::observe(n, View<Scores, Value, R>{scores, selection}, dp);
    }

    template <class Scores, class Dp>
    SPLASH_HD void apply(const TopK& n, Scores& scores, Dp& dp) const {
      selection.drop_others(scores);
      Base::apply(n, scores, dp);
    }
  };
};

}  // namespace normalizers
SPLASH_NAMESPACE_END
