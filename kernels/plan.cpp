#include "kernels/plan.hpp"

#include <algorithm>
#include <utility>

#include "kernels/text.hpp"

namespace splash::kernels {
namespace {

/// Rows that compute this normalizer, faster instances first.
std::vector<std::string> normalizer_rows(const NormalizerInfo& general, const NormalizerSpec& spec) {
  std::vector<std::string> names;
  for (const NormalizerInfo& row : normalizers())
    if (row.serves == general.name && row.name != general.name && std::equal(row.at, row.at + row.num_at, spec.floats))
      names.emplace_back(row.name);
  names.emplace_back(general.name);
  return names;
}

Spans spans_of(const PatternTerm& term) {
  const PatternInfo& info = patterns()[term.kind];
  return info.spans ? info.spans(term) : Spans::any;
}

/// Of all terms together, for an instance that takes any pattern.
Spans spans_of(const PatternSpec& spec) {
  Spans spans = Spans::any;
  for (int t = 0; t < spec.count; ++t)
    if (tuning::spans_among_others(spans_of(spec.terms[t])) == Spans::narrow) spans = Spans::narrow;
  return spans;
}

bool keeps_everything(const PatternTerm& term) {
  int64_t sides[2];
  const PatternInfo& info = patterns()[term.kind];
  if (!info.band || term.num_ints != info.ints) return false;  // a window of the dispatcher's own may begin later
  info.band(term, sides);
  return sides[0] < 0 && sides[1] < 0;
}

/// Keys that would serve a pattern of the problem, the best first. `spec`: the numbers of the normalizer.
std::vector<Key> candidates(const Call& call, const PatternSpec& pattern, const NormalizerInfo& normalizer,
                            const NormalizerSpec& spec) {
  const TensorView& q = call.in.q;
  std::vector<Key> keys;
  for (const std::string& row : normalizer_rows(normalizer, spec)) {
    Key key{call.pass, call.arch, "any", row, q.dtype, int(q.shape[3]), spans_of(pattern)};
    if (pattern.count == 1) {
      const PatternTerm& term = pattern.terms[0];
      Key exact = key;
      exact.pattern = patterns()[term.kind].name;
      exact.span = spans_of(term);
      keys.push_back(exact);
    }
    keys.push_back(key);
  }
  return keys;
}

Hints hints_of(const AttentionInputs& in, const PatternSpec& pattern) {
  Hints hints;
  for (int t = 0; t < pattern.count; ++t) {
    const PatternTerm& term = pattern.terms[t];
    const PatternInfo& info = patterns()[term.kind];
    int64_t rows[2] = {}, columns[2] = {};
    if (info.global_rows) info.global_rows(term, in, rows);
    if (info.global_columns) info.global_columns(term, in, columns);
    hints.first_global_rows = std::max(hints.first_global_rows, rows[0]);
    hints.last_global_rows = std::max(hints.last_global_rows, rows[1]);
    hints.first_global_columns = std::max(hints.first_global_columns, columns[0]);
    hints.last_global_columns = std::max(hints.last_global_columns, columns[1]);
  }
  const bool one = pattern.count == 1;
  const bool lists = one && patterns()[pattern.terms[0].kind].lists;
  const bool narrow = spans_of(pattern) == Spans::narrow && !lists;
  hints.keeps_all = one && keeps_everything(pattern.terms[0]);
  hints.uneven = !narrow && !hints.keeps_all;
  return hints;
}

/// The first of the keys decides the others, so the answer to it is remembered.
const Instance* find_first(const std::vector<Key>& keys) {
  struct Answer {
    Key key;
    const Instance* instance;
  };
  constexpr size_t kRemembered = 16;
  thread_local std::vector<Answer> answers;
  const Key& first = keys.front();
  const auto known = std::ranges::find(answers, first, &Answer::key);
  if (known != answers.end()) return known->instance;
  const Instance* found = nullptr;
  for (const Key& key : keys)
    if (!found) found = find(key);
  if (answers.size() == kRemembered) answers.erase(answers.begin());
  answers.push_back({first, found});
  return found;
}

/// Why an instance cannot run a step of this layout.
Fault misfit(const Call& call, const Instance& instance, const Layout& layout, bool accumulate = false) {
  return instance.fits ? instance.fits(call.operands, layout, accumulate) : Fault{};
}

Step whole_step(const Call& call, Scope scope, Fault& refusal) {
  const std::vector<Key> keys = candidates(call, scope.pattern, call.normalizer, call.in.normalizer);
  Step step{std::move(scope), {}, find_first(keys)};
  if (call.arch != Arch::cpu) step.hints = hints_of(call.in, step.scope.pattern);
  refusal = step.instance ? misfit(call, *step.instance, step.scope.layout)
                          : Fault{StatusCode::no_kernel, explain(keys.front())};
  return step;
}

/// Steps about disjoint keys of the same rows, each merged with those before it. What takes part in the denominator
/// beside the keys comes in with the last of them. None where the pattern is better left whole, or an instance is
/// missing.
std::vector<Step> merged_steps(const Call& call, const Scope& whole) {
  const NormalizerInfo& normalizer = call.normalizer;
  if (!normalizer.merges || whole.layout.residues > 1) return {};
  const NormalizerInfo* keys_alone = normalizer.parameters == 0 ? &normalizer : general_normalizer(normalizer.extends);
  std::vector<Scope> scopes = split_keys(call.in, whole);
  std::vector<Step> steps;
  for (Scope& scope : scopes) {
    const bool first = steps.empty(), last = &scope == &scopes.back();
    Step& step = steps.emplace_back();
    step.scope = std::move(scope);
    step.hints = hints_of(call.in, step.scope.pattern);
    step.keys_alone = !last;
    step.accumulate = !first;
    const NormalizerInfo* own = last ? &normalizer : keys_alone;
    const NormalizerSpec spec = last ? call.in.normalizer : NormalizerSpec{};
    if (own) step.instance = find_first(candidates(call, step.scope.pattern, *own, spec));
    if (!step.instance || misfit(call, *step.instance, step.scope.layout, step.accumulate)) return {};
  }
  return steps;
}

Plan plan_forward(const Call& call, const PatternSpec& pattern) {
  Plan plan;
  for (Scope& own : split_heads(call.in, pattern)) {
    const bool beside = !plan.steps.empty();
    fold_residues(own);
    std::vector<Step> steps = merged_steps(call, own);
    if (steps.empty()) {
      steps = {whole_step(call, std::move(own), plan.refusal)};
      if (plan.refusal) return {{}, std::move(plan.refusal)};
    }
    steps.front().beside = beside;
    plan.steps.insert(plan.steps.end(), steps.begin(), steps.end());
  }
  return plan;
}

Plan plan_backward(const Call& call, const PatternSpec& pattern) {
  // Lists are of whole rows: a part of the keys would take all of them.
  const bool lists = call.arch != Arch::cpu && call.normalizer.lists;
  const auto runs = [&](const Scope& scope) {
    if (lists) return false;
    const Instance* instance = find_first(candidates(call, scope.pattern, call.normalizer, call.in.normalizer));
    return instance && !misfit(call, *instance, scope.layout);
  };
  Plan plan;
  for (GradientPart& part : split_gradients(call.in, pattern, runs)) {
    Step& step = plan.steps.emplace_back(whole_step(call, std::move(part.scope), plan.refusal));
    if (plan.refusal) return {{}, std::move(plan.refusal)};
    step.adds_queries = part.adds_queries;
    step.adds_keys = part.adds_keys;
  }
  return plan;
}

void append(std::string& text, const PatternSpec& spec) {
  for (int t = 0; t < spec.count; ++t) {
    const PatternTerm& term = spec.terms[t];
    text += join(t ? " & " : "", patterns()[term.kind].name, "(");
    for (int n = 0; n < term.num_ints; ++n) text += join(n ? ", " : "", term.ints[n]);
    text += ")";
  }
}

std::string to_string(const Step& step, const Call& call, bool deterministic, bool learns) {
  std::string text;
  append(text, step.scope.pattern);
  const Layout& layout = step.scope.layout;
  if (const HeadRange& heads = layout.heads; heads.count > 0) {
    text += join(", ", heads.count, " heads from ", heads.first, " on");
    if (heads.step > 1) text += join(", every ", heads.step, "th");
  }
  if (layout.residues > 1) text += join(", in each class of positions modulo ", layout.residues);
  if (const KeyRuns& runs = layout.key_runs; runs.length > 0)
    text += join(", of ", runs.count, " keys in runs of ", runs.length);
  if (step.accumulate) text += ", merged with what was found before";
  if (step.adds_queries || step.adds_keys) text += ", added to what was found before";
  text += join(": ", to_string(step.instance->key));
  if (const TellStrategy strategy = step.instance->strategy) {
    const BackwardJoin join{.adds_queries = step.adds_queries, .adds_keys = step.adds_keys};
    text.append(": ").append(strategy(call.in, step.scope.pattern, layout, join, deterministic, learns));
  }
  return text;
}

}  // namespace

const NormalizerInfo* general_normalizer(std::string_view name) {
  for (const NormalizerInfo& row : normalizers())
    if (row.name == name && row.serves == row.name) return &row;
  return nullptr;
}

Plan plan_attention(const Call& call) {
  const PatternSpec pattern = fold_bands(call.in.pattern);
  if (call.arch != Arch::cpu)
    return call.pass == Pass::forward ? plan_forward(call, pattern) : plan_backward(call, pattern);
  Plan plan;
  plan.steps.push_back(whole_step(call, {pattern, {}}, plan.refusal));
  if (plan.refusal) plan.steps.clear();
  return plan;
}

std::string to_string(const Plan& plan, const Call& call, bool deterministic, bool learns) {
  if (plan.refusal) return plan.refusal.reason;
  std::string text;
  for (const Step& step : plan.steps)
    text += join(text.empty() ? "" : "\n", to_string(step, call, deterministic, learns));
  return text;
}

}  // namespace splash::kernels
