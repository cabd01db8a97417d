// The hooks that only some normalizers have: which of them a type has, and which of them a mainloop calls. A hook that
// a mainloop does not call is a compile error there, for the type that has it.
#pragma once

#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// Of the forward, by the names of concept.hpp.
struct ForwardHooks {
  bool score_sweeps = false;  ///< observe() and refine()
  bool rescales = false;      ///< meet()
  bool saved = false;         ///< saved()
  bool head = false;          ///< of_head() before weights are formed, not only before output_factor()
  bool position = false;      ///< Rows::place()
  bool column = false;        ///< column() of a fragment
  bool bias = false;          ///< bias() and bias_count()
};

/// Of the backward.
struct BackwardHooks {
  bool sweeps = false;           ///< Gradient's observe(), close() and apply(), instead of the RowStats of one sweep
  bool saved = false;            ///< what load() reads of the forward
  bool head = false;             ///< of_head() before P and dS are formed, not only before row_stats()
  bool position = false;         ///< Gradient::place()
  bool column = false;           ///< column() of a fragment
  bool bias = false;             ///< bias(), and its gradient
  int row_gradients = 0;         ///< so many parameters with a gradient that is a sum over rows
  bool row_gradient_of = false;  ///< found by row_gradient(statistic, output_dot) instead of Gradient::row_gradient()
};

template <class N>
inline constexpr ForwardHooks kForwardHooks{.score_sweeps = N::kScoreSweeps,
                                            .rescales = N::kRescales,
                                            .saved = (N::kSaved > 0),
                                            .head = kHeadInWeights<N>,
                                            .position = kNeedsPosition<N>,
                                            .column = kNeedsColumn<N>,
                                            .bias = kHasBias<N>};

template <class N>
inline constexpr BackwardHooks kBackwardHooks{.sweeps = !kOneSweepGradient<N>,
                                              .saved = !kOneSweepGradient<N> && N::kSaved > 0,
                                              .head = kHeadInWeights<N>,
                                              .position = kNeedsGradientPosition<N>,
                                              .column = kNeedsColumn<N>,
                                              .bias = kHasBias<N>,
                                              .row_gradients = kRowGradientsOf<N>,
                                              .row_gradient_of = kSumsRowGradients<N>};

/// A member of this name that cannot be called as concept.hpp says would never be called, in silence.
template <class N>
consteval bool hooks_are_spelled_right() {
  using Rows = typename N::template Rows<float, 1>;
  using Gradient = typename N::template Gradient<float, 1>;
  static_assert(
      !requires { &N::of_head; } ||
          requires(const N& n) {
            { n.of_head(0) } -> std::same_as<N>;
          },
      "the normalizer's of_head must be: N of_head(int head) const");
  static_assert(!requires { &N::bias; } || kHasBias<N>, "a normalizer with bias() says so by kBias = true");
  static_assert(
      !kHasBias<N> || requires(const N& n) {
        n.bias();
        { n.bias_count() } -> std::convertible_to<int>;
      }, "a normalizer with kBias = true must have bias() const and int bias_count() const");
  static_assert(
      !requires { &Rows::place; } || kNeedsPosition<N>, "Rows::place must be: void place(const N&, int r, Value i)");
  static_assert(
      !requires { &Gradient::place; } || kNeedsGradientPosition<N>,
      "Gradient::place must be: void place(const N&, int r, Value i)");
  static_assert(
      !requires { &N::extra_mass; } || requires(const N& n) { n.extra_mass(0, 0.0f); },
      "extra_mass must be: Real extra_mass(int head, Real shift) const");
  static_assert(
      !requires { &N::row_stats; } || requires(const N& n) { n.row_stats(0.0f, 0.0f, 0.0f); },
      "row_stats must be: RowStats<Real> row_stats(Real statistic, Real output_dot, Real dstatistic) "
      "const");
  static_assert(
      !kOneSweepGradient<N> || requires(const N& n) {
        n.weight_of(0.0f, 0.0f);
        n.dscore_of(0.0f, 0.0f, 0.0f);
      }, "a normalizer with row_stats() must have weight_of(score, shift) and dscore_of(weight, dp, delta), const");
  static_assert(
      !requires { &Gradient::row_gradient; } || kRowGradientsOf<N> > 0,
      "a normalizer with Gradient::row_gradient() says by kRowGradients how many there are");
  return true;
}

/// To be asked by a forward mainloop, which calls `Called`.
template <class N, ForwardHooks Called>
consteval bool forward_calls_all_hooks() {
  constexpr ForwardHooks kOwn = kForwardHooks<N>;
  static_assert(!kOwn.score_sweeps || Called.score_sweeps,
                "the normalizer observes scores before it weighs them (kScoreSweeps); this forward never sweeps");
  static_assert(!kOwn.rescales || Called.rescales,
                "the normalizer rescales its output (kRescales); this forward never calls meet()");
  static_assert(!kOwn.saved || Called.saved,
                "the normalizer saves numbers for the backward (kSaved); this forward never asks for saved()");
  static_assert(!kOwn.head || Called.head,
                "the weights of the normalizer depend on the head (of_head(), and no kHeadInWeights = false); this "
                "forward asks of_head() before output_factor() only");
  static_assert(!kOwn.position || Called.position,
                "the normalizer wants the position of a row (Rows::place()); this forward never tells it");
  static_assert(!kOwn.column || Called.column,
                "the normalizer reads the columns of a fragment (kColumn); those of this forward have none");
  static_assert(!kOwn.bias || Called.bias,
                "the normalizer has a bias (kBias); this forward never adds it to the scores");
  return hooks_are_spelled_right<N>();
}

/// To be asked by a backward mainloop, which calls `Called`.
template <class N, BackwardHooks Called>
consteval bool backward_calls_all_hooks() {
  constexpr BackwardHooks kOwn = kBackwardHooks<N>;
  static_assert(!kOwn.sweeps || Called.sweeps,
                "the gradients of the normalizer take sweeps of their own (no row_stats()); this backward has one");
  static_assert(!kOwn.saved || Called.saved,
                "the backward of the normalizer reads what the forward saved (kSaved); this one never loads it");
  static_assert(!kOwn.head || Called.head,
                "the weights of the normalizer depend on the head (of_head(), and no kHeadInWeights = false); this "
                "backward asks of_head() before row_stats() only");
  static_assert(!kOwn.position || Called.position,
                "the normalizer wants the position of a row (Gradient::place()); this backward never tells it");
  static_assert(!kOwn.column || Called.column,
                "the normalizer reads the columns of a fragment (kColumn); those of this backward have none");
  static_assert(!kOwn.bias || Called.bias,
                "the normalizer has a bias (kBias); this backward neither adds it nor finds its gradient");
  static_assert(kOwn.row_gradients <= Called.row_gradients,
                "the normalizer has more parameters with gradients by row (kRowGradients) than this backward sums");
  static_assert(
      kOwn.row_gradients == 0 || Called.sweeps || kOwn.row_gradient_of,
      "the normalizer has kRowGradients, but no row_gradient(statistic, output_dot), which this backward sums");
  return hooks_are_spelled_right<N>();
}

}  // namespace normalizers
SPLASH_NAMESPACE_END
