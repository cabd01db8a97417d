// What a normalizer must provide: HOW the scores of a row become weights, and how gradients come back.
#pragma once

#include <concepts>

#include "splash/core/arguments.hpp"
#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace normalizers {

/// A fragment is the part of a score tile that one thread holds: `rows` query rows times columns() keys, read by
/// get(r, c) and written by set(r, c, value). On a GPU a row is spread over the four threads of a quad and Value is
/// float; on the CPU a "row" is one SIMD vector of queries. Masked scores are -inf. Raw scores are q.k; the normalizer
/// multiplies by its own factor, so that scale and change of base cost nothing.
///
/// A reduction combines the threads that share a row: reduce.max(value), reduce.sum(value), the same result in each.
///
/// empty_statistic<Value>() is the statistic of a row that kept nothing; its saved values are 0.
///
/// Rows<Value, R> is the state of R rows in the forward:
///   observe(n, fragment)          a score sweep sees one tile (only where kScoreSweeps)
///   refine(n, reduce) -> bool     ends a score sweep; true where any row of this thread needs another one
///   weigh(n, fragment, rescale, reduce)  output sweep: scores become weights in place; earlier output must be
///                                 multiplied by rescale[r] (1 and unused unless kRescales)
///   finish(n, reduce)             ends the output sweep; then
///   output_factor(r)              multiplies the row of the output,
///   statistic(n, r), saved(r, s)  what the backward and the caller get, s < kSaved.
///
/// Gradient<Value, R> is the state of R rows in the backward:
///   delta[R]                      public: what close() found; the CPU keeps it a row and sets it again after load()
///   load(n, r, statistic, saved)  saved is a callable s -> Value
///   observe(n, fragment scores, fragment dp)  delta sweep (only where kDeltaSweep): scores and dO.v
///   close(n, r, output_dot, dstatistic, reduce)  delta from rowsum(dO * O) or the sweep, less the statistic's gradient
///   apply(n, scores, dp)          scores become weights p, dp becomes dS with respect to s = scale * q.k
template <class N>
concept Normalizer = requires(const NormalizerSpec& spec, double scale) {
  { N::from(spec, scale) } -> std::same_as<N>;  // scale > 0, see math::split_scale
  { N::kScoreSweeps } -> std::convertible_to<bool>;
  { N::kRescales } -> std::convertible_to<bool>;
  { N::kDeltaSweep } -> std::convertible_to<bool>;
  { N::kSaved } -> std::convertible_to<int>;
};

}  // namespace normalizers
SPLASH_NAMESPACE_END
