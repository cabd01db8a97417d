// A call on a GPU as several calls: heads with patterns of their own, and patterns that are unions of simpler ones,
// each in the layout that serves it best.
#pragma once

#include <functional>
#include <vector>

#include "kernels/registry.hpp"

namespace splash::kernels {

/// What a call is about: the scores that a pattern keeps, and the layout in which they are computed.
struct Scope {
  PatternSpec pattern;
  Layout layout;
};

/// All bands of the conjunction become one sliding window, and a window without limits is dropped where another term
/// stays. No term at all becomes a window without limits.
PatternSpec fold_bands(const PatternSpec& spec);

/// The pattern for all heads, or, where a term of it has a list of numbers by head, query heads that keep the same
/// scores, in ranges of heads that are as far apart.
std::vector<Scope> split_heads(const AttentionInputs& in, const PatternSpec& pattern);

/// A pattern alone, or with bands, as calls about disjoint scores of the same rows: what belongs to several of them
/// adds up once they share the rows' statistics. Each call covers all rows.
/// Empty where the pattern is better left whole.
std::vector<Scope> split_keys(const AttentionInputs& in, const Scope& whole);

/// One of the calls that gradients are made of, which adds to what those before it found.
struct GradientPart {
  Scope scope;
  bool adds_queries = false, adds_keys = false;
};

/// With the statistics of whole rows, the gradients of disjoint scores add up: the calls of split_heads and of
/// split_keys, in the order in which they have to run. `runs` says whether an instance can run a call.
std::vector<GradientPart> split_gradients(const AttentionInputs& in, const PatternSpec& pattern,
                                          const std::function<bool(const Scope&)>& runs);

/// A dilated pattern, alone or with bands, as a window within each class of positions.
void fold_residues(Scope& scope);

}  // namespace splash::kernels
