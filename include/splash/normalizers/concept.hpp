// What a normalizer must provide: HOW the scores of a row become weights, and how gradients come back.
#pragma once

#include <concepts>

#include "splash/core/arguments.hpp"
#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// A fragment is the part of a score tile that one thread holds: `rows` query rows times columns() keys, read by
/// get(r, c) and written by set(r, c, value); column(c) is the index of the key, a whole number. On a GPU a row is
/// spread over the four threads of a quad and Value is float; on the CPU a "row" is one SIMD vector of queries, or,
/// where dS is formed, of keys. Masked scores are -inf. Raw scores are q.k; the normalizer multiplies by its own
/// factor, so that scale and change of base cost nothing.
///
/// A reduction combines the threads that share a row: reduce.max(value), reduce.sum(value), the same result in each.
///
/// empty_statistic<Value>() is the statistic of a row that kept nothing. It has no gradients: whatever arrives at it,
/// NaN too, ends in the mainloops, which ask kept_none(); no rule below needs to care.
///
/// Rows<Value, R> is the state of R rows in the forward:
///   observe(n, fragment)          a score sweep sees one tile (only where kScoreSweeps)
///   refine(n, reduce) -> bool     ends a score sweep; true where any row of this thread needs another one
///   meet(n, fragment, rescale, reduce)  output sweep: before a tile is weighed; earlier output must be multiplied by
///                                 rescale[r], 1 at most (only where kRescales)
///   weigh(n, fragment)            scores become weights in place
///   finish(n, reduce)             ends the output sweep; then
///   output_factor(n, r)           multiplies the row of the output,
///   statistic(n, r), saved(r, s)  what the backward and the caller get, s < kSaved.
///
/// Gradient<Value, R> is the state of R rows in the backward:
///   delta[R]                      public: what close() found; the CPU keeps it a row and sets it again after load()
///   load(n, r, statistic, saved)  saved is a callable s -> Value
///   observe(n, fragment scores, fragment dp)  delta sweep: scores and dO.v; where kDeltaSweep, and of an output whose
///                                 rounding is more than that of Value (16 bits on the CPU). There, without
///                                 kDeltaSweep,
///   output_dot(n, r, reduce)      is what the sweep found for rowsum(dO * O)
///   close(n, r, output_dot, dstatistic, reduce)  delta from rowsum(dO * O) or the sweep, less the statistic's gradient
///   apply(n, scores, dp)          scores become weights p, dp becomes dS with respect to s = scale * q.k; both are 0
///                                 where the score is masked, even if dp or delta is NaN
///
/// A normalizer whose gradients come in one sweep on a GPU has, for one row without its sums:
///   row_stats(statistic, output_dot, dstatistic) -> RowStats  once a row that kept something; then
///   weight_of(score, shift), dscore_of(weight, dp, delta)         P and dS with respect to s = scale * q.k
/// and may have
///   shift_factor()                  where weight_of(score, shift) is weight_of(score + shift * shift_factor(), 0): a
///                                   mainloop short of registers then lets S begin as that
///   row_gradient(statistic, output_dot)  the row's share of the gradient of its one parameter of kRowGradients;
///                                   output_dot is sum P dP, to more than the output's rounding
///
/// A normalizer that needs more says so by having it; a mainloop that would not call it does not compile (hooks.hpp):
///   n.of_head(head) -> N            its numbers for one query head, asked for before anything else; where
///                                   kHeadInWeights = false weights are the same for all heads, and it is asked for
///                                   before output_factor(), row_stats() and Gradient alone
///   kColumn = true                  it reads column() of fragments
///   Rows::place(n, r, i), Gradient::place(n, r, i)  the position of the row, told first (after load() in the backward)
///   n.extra_mass(head, shift)       results of disjoint ranges of keys merge by their log-sum-exp, the statistic; this
///                                   is the denominator's part that no range has, over exp(shift)
///   Rows::resume(r, lse, counts)    beside it: before any tile, the row goes on from such a range, whose normalized
///                                   output is there already; `counts` in one of the threads that share the row
///   kBias, n.bias(), n.bias_count() b[t], added to s at the distance t = i - j in [0, count). The mainloop adds it to
///                                   the raw scores and sums dS along the diagonals: the gradient of the last parameter
///   kCandidates = true, Rows::cut(n, r)  after score sweeps over some of a row's keys, none of them twice: no raw
///   score
///                                   at or below it has weight in the whole row. After a sweep that wants no other
///                                   one it is tight
///   kRowGradients, Gradient::row_gradient(n, r, p)  after close(): the row's share of the gradient of parameter p of
///                                   its head, p < kRowGradients
template <class N>
concept Normalizer = requires(const NormalizerSpec& spec, double scale) {
  { N::from(spec, scale) } -> std::same_as<N>;  // scale > 0, see math::split_scale
  { N::kScoreSweeps } -> std::convertible_to<bool>;
  { N::kRescales } -> std::convertible_to<bool>;
  { N::kDeltaSweep } -> std::convertible_to<bool>;
  { N::kSaved } -> std::convertible_to<int>;
  { N::template empty_statistic<float>() } -> std::same_as<float>;
};

/// Whether a row of this statistic kept nothing.
template <class N, class Value>
SPLASH_HD auto kept_none(Value statistic) {
  return statistic == N::template empty_statistic<Value>();
}

/// What the backward of one sweep needs to know of a row: weights come from shift, and dS from delta. A shift of +inf
/// and no delta are those of a row that kept nothing.
template <class Value>
struct RowStats {
  Value shift, delta;
};

/// n.row_stats() of any row.
template <class N, class Real>
SPLASH_HD RowStats<Real> row_stats(const N& n, Real statistic, Real output_dot, Real dstatistic) {
  if (kept_none<N>(statistic)) return {math::kInfinity<Real>, Real(0)};
  return n.row_stats(statistic, output_dot, dstatistic);
}

template <class N>
inline constexpr bool kOneSweepGradient = !N::kScoreSweeps && requires(const N& n) { n.row_stats(0.0f, 0.0f, 0.0f); };

template <class N>
SPLASH_HD N of_head(const N& n, int head) {
  if constexpr (requires { n.of_head(head); })
    return n.of_head(head);
  else
    return n;
}

/// `state` is Rows or Gradient.
template <class N, class State, class Value>
SPLASH_HD void place(const N& n, State& state, int r, Value i) {
  if constexpr (requires { state.place(n, r, i); }) state.place(n, r, i);
}

template <class N>
inline constexpr bool kNeedsPosition =
    requires(const N& n, typename N::template Rows<float, 1>& rows) { rows.place(n, 0, 0.0f); };

template <class N>
inline constexpr bool kNeedsGradientPosition =
    requires(const N& n, typename N::template Gradient<float, 1>& gradient) { gradient.place(n, 0, 0.0f); };

template <class N>
inline constexpr bool kNeedsColumn = requires { requires N::kColumn; };

/// Whether weights, and not only what is made of their sums, depend on of_head().
template <class N>
inline constexpr bool kHeadInWeights = [] {
  if constexpr (requires { N::kHeadInWeights; })
    return bool(N::kHeadInWeights);
  else
    return requires(const N& n) { n.of_head(0); };
}();

template <class N>
inline constexpr bool kMerges = !N::kScoreSweeps && requires(const N& n) { n.extra_mass(0, 0.0f); };

/// Few keys of a row have weight, and a kernel may list the ones that can.
template <class N>
inline constexpr bool kListsCandidates = requires { requires N::kCandidates; };

template <class N>
inline constexpr bool kHasBias = requires { requires N::kBias; };

template <class N>
inline constexpr int kRowGradientsOf = [] {
  if constexpr (requires { N::kRowGradients; })
    return int(N::kRowGradients);
  else
    return 0;
}();

template <class N>
inline constexpr bool kHasShiftFactor = requires(const N& n) { n.shift_factor(); };

template <class N>
inline constexpr bool kSumsRowGradients = requires(const N& n) { n.row_gradient(0.0f, 0.0f); };

}  // namespace normalizers
SPLASH_NAMESPACE_END
