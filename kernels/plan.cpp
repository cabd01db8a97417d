#include "kernels/plan.hpp"

#include <algorithm>

#include "kernels/parts.hpp"
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

/// The granularity of instances that serves a term best; 0 where it does not matter.
int block_of(const PatternTerm& term) {
  const PatternInfo& info = patterns()[term.kind];
  if (!info.block) return 0;
  const int columns = info.block(term);
  return columns % 128 == 0 ? (columns ? 128 : 0) : (columns % 64 == 0 ? 64 : 0);
}

/// Of all terms together: narrow tiles pay where one of them has narrow edges.
int block_of(const PatternSpec& spec) {
  int block = 0;
  for (int t = 0; t < spec.count; ++t)
    if (const int own = block_of(spec.terms[t]); own && (!block || own < block)) block = own;
  return block;
}

bool keeps_everything(const PatternTerm& term) {
  int64_t sides[2];
  const PatternInfo& info = patterns()[term.kind];
  if (!info.band || term.num_ints != info.ints) return false;  // a window of the dispatcher's own may begin later
  info.band(term, sides);
  return sides[0] < 0 && sides[1] < 0;
}

/// Keys that would serve the problem, the best first.
std::vector<Key> candidates(Pass pass, Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer) {
  std::vector<Key> keys;
  for (const std::string& row : normalizer_rows(normalizer, in.normalizer)) {
    Key key{pass, arch, "any", row, in.q.dtype, int(in.q.shape[3]), block_of(in.pattern)};
    if (in.pattern.count == 1) {
      const PatternTerm& term = in.pattern.terms[0];
      Key exact = key;
      exact.pattern = patterns()[term.kind].name;
      keys.push_back(exact);
    }
    keys.push_back(key);
  }
  return keys;
}

/// What helps a GPU launch, and changes no result.
void add_hints(AttentionInputs& in) {
  for (int t = 0; t < in.pattern.count; ++t) {
    const PatternTerm& term = in.pattern.terms[t];
    const PatternInfo& info = patterns()[term.kind];
    int64_t rows[2] = {}, columns[2] = {};
    if (info.global_rows) info.global_rows(term, in, rows);
    if (info.global_columns) info.global_columns(term, in, columns);
    in.first_global_rows = std::max(in.first_global_rows, rows[0]);
    in.last_global_rows = std::max(in.last_global_rows, rows[1]);
    in.first_global_columns = std::max(in.first_global_columns, columns[0]);
    in.last_global_columns = std::max(in.last_global_columns, columns[1]);
  }
  const bool one = in.pattern.count == 1;
  const bool lists = one && patterns()[in.pattern.terms[0].kind].lists;
  const bool short_spans = block_of(in.pattern) == 64 && !lists;
  in.keeps_all = one && keeps_everything(in.pattern.terms[0]);
  in.uneven = !short_spans && !in.keeps_all;
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

Step whole_step(Pass pass, Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer, Fault& refusal) {
  const std::vector<Key> keys = candidates(pass, arch, in, normalizer);
  Step step{in, find_first(keys)};
  if (!step.instance) refusal = {StatusCode::no_kernel, explain(keys.front())};
  return step;
}

/// Steps about disjoint keys of the same rows, each merged with those before it. What takes part in the denominator
/// beside the keys comes in with the last of them. None where the pattern is better left whole, or an instance is
/// missing.
std::vector<Step> merged_steps(Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer) {
  if (!normalizer.merges || in.residues > 1) return {};
  const NormalizerInfo* keys_alone = normalizer.parameters == 0 ? &normalizer : general_normalizer(normalizer.extends);
  const std::vector<AttentionInputs> calls = split_keys(in);
  std::vector<Step> steps;
  for (const AttentionInputs& call : calls) {
    const bool first = steps.empty(), last = &call == &calls.back();
    Step& step = steps.emplace_back(Step{call});
    if (!last) step.in.normalizer = {};
    const NormalizerInfo* own = last ? &normalizer : keys_alone;
    add_hints(step.in);
    if (own) step.instance = find_first(candidates(Pass::forward, arch, step.in, *own));
    step.accumulate = !first;
    if (!step.instance || (step.accumulate && !step.instance->resumes) || !step.instance->loads(call.key_runs))
      return {};
  }
  return steps;
}

Plan plan_forward(Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer) {
  Plan plan;
  for (AttentionInputs& own : split_heads(in)) {
    const bool beside = !plan.steps.empty();
    fold_residues(own);
    std::vector<Step> steps = merged_steps(arch, own, normalizer);
    if (steps.empty()) {
      add_hints(own);
      steps = {whole_step(Pass::forward, arch, own, normalizer, plan.refusal)};
      if (plan.refusal) return {{}, std::move(plan.refusal)};
    }
    steps.front().beside = beside;
    plan.steps.insert(plan.steps.end(), steps.begin(), steps.end());
  }
  return plan;
}

Plan plan_backward(Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer) {
  const auto runs = [&](const AttentionInputs& part) {
    const Instance* instance = find_first(candidates(Pass::backward, arch, part, normalizer));
    return instance && instance->loads(part.key_runs);
  };
  Plan plan;
  for (GradientPart& part : split_gradients(in, runs)) {
    add_hints(part.in);
    Step& step = plan.steps.emplace_back(whole_step(Pass::backward, arch, part.in, normalizer, plan.refusal));
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

std::string to_string(const Step& step) {
  std::string text;
  append(text, step.in.pattern);
  if (const HeadRange& heads = step.in.heads; heads.count > 0) {
    text += join(", ", heads.count, " heads from ", heads.first, " on");
    if (heads.step > 1) text += join(", every ", heads.step, "th");
  }
  if (step.in.residues > 1) text += join(", in each class of positions modulo ", step.in.residues);
  if (const KeyRuns& runs = step.in.key_runs; runs.length > 0)
    text += join(", of ", runs.count, " keys in runs of ", runs.length);
  if (step.accumulate) text += ", merged with what was found before";
  if (step.adds_queries || step.adds_keys) text += ", added to what was found before";
  return join(text, ": ", to_string(step.instance->key));
}

}  // namespace

const NormalizerInfo* general_normalizer(std::string_view name) {
  for (const NormalizerInfo& row : normalizers())
    if (row.name == name && row.serves == row.name) return &row;
  return nullptr;
}

Plan plan_attention(Pass pass, Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer) {
  AttentionInputs folded = in;
  folded.pattern = fold_bands(in.pattern);
  if (arch != Arch::cpu)
    return pass == Pass::forward ? plan_forward(arch, folded, normalizer) : plan_backward(arch, folded, normalizer);
  Plan plan;
  plan.steps.push_back(whole_step(pass, arch, folded, normalizer, plan.refusal));
  if (plan.refusal) plan.steps.clear();
  return plan;
}

std::string to_string(const Plan& plan) {
  if (plan.refusal) return plan.refusal.reason;
  std::string text;
  for (const Step& step : plan.steps) text += join(text.empty() ? "" : "\n", to_string(step));
  return text;
}

}  // namespace splash::kernels
