#include "kernels/parts.hpp"

#include <algorithm>

#include "splash/core/head_groups.hpp"
#include "splash/patterns/sliding_window.hpp"
#include "splash/tuning/schedule.hpp"

namespace splash::kernels {
namespace {

using patterns::shorter_side;

/// The only term that is no band, and what the bands together allow; nullptr where there is not just one.
const PatternTerm* term_within_bands(const PatternSpec& spec, int64_t (&band)[2]) {
  const PatternTerm* found = nullptr;
  band[0] = band[1] = -1;
  for (int t = 0; t < spec.count; ++t) {
    const PatternTerm& term = spec.terms[t];
    if (const PatternInfo& info = patterns()[term.kind]; info.band) {
      int64_t sides[2];
      info.band(term, sides);
      for (int n = 0; n < 2; ++n) band[n] = shorter_side(band[n], sides[n]);
    } else if (found) {
      return nullptr;
    } else {
      found = &term;
    }
  }
  return found;
}

/// As the dispatcher's other terms are.
PatternTerm term_of(const patterns::Part& part) {
  PatternTerm term = part.term;
  term.kind = pattern_kind(part.pattern);
  return term;
}

PatternTerm window_term(const int64_t (&sides)[2]) {
  return term_of(patterns::part_of<patterns::SlidingWindow>({sides[0], sides[1]}));
}

bool same_list(const PatternSpec& spec, int64_t head, int64_t other) {
  for (int t = 0; t < spec.count; ++t) {
    const PatternTerm& term = spec.terms[t];
    if (term.list_size > 0 && term.list[head] != term.list[other]) return false;
  }
  return true;
}

Scope of_heads(const PatternSpec& pattern, const HeadRange& heads) {
  Scope own{pattern, {}};
  own.layout.heads = heads;
  for (int t = 0; t < own.pattern.count; ++t) {
    PatternTerm& term = own.pattern.terms[t];
    const PatternInfo& info = patterns()[term.kind];
    if (!info.of_head) continue;
    term = term_of(info.of_head(term, heads.first));
  }
  return own;
}

/// The calls of split_heads, and for each whether those before it have written the gradients of its keys; the call as
/// it is where they share some of its keys only, or where its heads are spread over the groups in no simple way.
std::vector<GradientPart> split_heads_by_group(const AttentionInputs& in, const PatternSpec& pattern) {
  std::vector<GradientPart> calls;
  const int64_t heads = in.q.shape[1], kv_heads = in.k.shape[1];
  std::vector<bool> written(size_t(kv_heads), false);
  for (const Scope& own : split_heads(in, pattern)) {
    if (own.layout.heads.count == 0) return {{own}};
    const HeadGroups groups = groups_of(own.layout.heads, heads, heads / kv_heads);
    int64_t before = 0;
    for (int64_t n = 0; n < groups.count; ++n) {
      std::vector<bool>::reference seen = written[size_t(groups.first + n * groups.step)];
      before += seen;
      seen = true;
    }
    if (groups.count == 0 || (before > 0 && before < groups.count)) return {{{pattern, {}}}};
    calls.push_back({own, false, before > 0});
  }
  return calls;
}

}  // namespace

PatternSpec fold_bands(const PatternSpec& spec) {
  PatternSpec folded;
  int64_t sides[2] = {-1, -1};
  for (int t = 0; t < spec.count; ++t) {
    const PatternTerm& term = spec.terms[t];
    const PatternInfo& info = patterns()[term.kind];
    if (!info.band) {
      folded.terms[folded.count++] = term;
      continue;
    }
    int64_t own[2];
    info.band(term, own);
    for (int n = 0; n < 2; ++n) sides[n] = shorter_side(sides[n], own[n]);
  }
  const bool limits = sides[0] >= 0 || sides[1] >= 0;
  if (limits || folded.count == 0) folded.terms[folded.count++] = window_term(sides);
  return folded;
}

std::vector<Scope> split_heads(const AttentionInputs& in, const PatternSpec& spec) {
  const auto by_head = [](const PatternTerm& term) { return patterns()[term.kind].of_head != nullptr; };
  if (in.q.shape[1] == 0 || std::none_of(spec.terms, spec.terms + spec.count, by_head)) return {{spec, {}}};
  std::vector<Scope> calls;
  const int64_t heads = in.q.shape[1];
  std::vector<bool> taken(size_t(heads), false);
  for (int64_t head = 0; head < heads; ++head) {
    if (taken[size_t(head)]) continue;
    HeadRange range{head, 1, 1};
    for (int64_t next = head + 1; next < heads; ++next) {
      if (taken[size_t(next)] || !same_list(spec, head, next)) continue;
      if (range.count == 1) range.step = next - head;
      if (next != head + range.count * range.step) continue;
      ++range.count;
    }
    for (int64_t n = 0; n < range.count; ++n) taken[size_t(head + n * range.step)] = true;
    calls.push_back(of_heads(spec, range));
  }
  // One pattern for all of them needs no range.
  if (calls.size() == 1 && calls[0].layout.heads.count == heads) calls[0].layout.heads = {};
  return calls;
}

std::vector<Scope> split_keys(const AttentionInputs& in, const Scope& whole) {
  int64_t band[2];
  const PatternTerm* term = term_within_bands(whole.pattern, band);
  if (!term || !patterns()[term->kind].parts) return {};
  patterns::Part parts[patterns::kMaxParts];
  const int count = patterns()[term->kind].parts(*term, in, band, parts);
  const int64_t keys = in.positions.cu_queries ? in.positions.max_keys : in.k.shape[2];
  std::vector<Scope> calls;
  for (int n = 0; n < count; ++n) {
    if (parts[n].residues > 1 && keys < tuning::kClassKeys * parts[n].residues) return {};
    calls.push_back({{1, {term_of(parts[n])}}, {parts[n].residues, whole.layout.heads, parts[n].key_runs}});
  }
  return calls;
}

std::vector<GradientPart> split_gradients(const AttentionInputs& in, const PatternSpec& pattern,
                                          const std::function<bool(const Scope&)>& runs) {
  std::vector<GradientPart> calls;
  for (GradientPart& own : split_heads_by_group(in, pattern)) {
    fold_residues(own.scope);
    std::vector<Scope> parts;
    if (own.scope.layout.residues == 1) parts = split_keys(in, own.scope);
    if (parts.empty() || !std::all_of(parts.begin(), parts.end(), runs)) parts = {own.scope};
    // The first one writes the gradients of all keys; runs are some of them.
    std::stable_partition(parts.begin(), parts.end(),
                          [](const Scope& part) { return part.layout.key_runs.length == 0; });
    for (size_t n = 0; n < parts.size(); ++n) calls.push_back({parts[n], n > 0, n > 0 || own.adds_keys});
  }
  return calls;
}

void fold_residues(Scope& scope) {
  int64_t dilation = 1, sides[2], band[2];
  const PatternTerm* term = term_within_bands(scope.pattern, band);
  if (!term) return;
  const PatternInfo& info = patterns()[term->kind];
  if (!info.residues || !info.residues(*term, dilation, sides)) return;
  for (int n = 0; n < 2; ++n) sides[n] = shorter_side(sides[n], band[n] < 0 ? -1 : band[n] / dilation);
  scope.pattern = {1, {window_term(sides)}};
  scope.layout.residues = dilation;
}

}  // namespace splash::kernels
