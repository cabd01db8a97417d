#include "kernels/dispatch.hpp"

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/checks.hpp"

namespace splash::kernels {
namespace {

Status report(StatusCode code, std::string reason) {
  thread_local std::string kept;
  kept = std::move(reason);
  return {code, kept.c_str()};
}

/// The tighter of two sides of a band; negative ones do not limit.
int64_t tighter(int64_t a, int64_t b) { return a < 0 ? b : (b < 0 ? a : std::min(a, b)); }

/// The general row of a normalizer, which knows the range of its numbers.
const NormalizerInfo* general_normalizer(const char* name) {
  for (const NormalizerInfo& row : normalizers())
    if (row.name == name && row.serves == row.name) return &row;
  return nullptr;
}

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
  if (!info.band) return false;
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

/// A dilated pattern, alone or with bands, as a window within each class of positions.
void fold_residues(AttentionInputs& in) {
  PatternSpec& spec = in.pattern;
  int64_t dilation = 1, sides[2], band[2] = {-1, -1};
  int dilated = -1;
  for (int t = 0; t < spec.count; ++t) {
    const PatternInfo& info = patterns()[spec.terms[t].kind];
    if (dilated < 0 && info.residues && info.residues(spec.terms[t], dilation, sides))
      dilated = t;
    else if (info.band)
      info.band(spec.terms[t], band);
    else
      return;
  }
  if (dilated < 0) return;
  PatternSpec folded;
  PatternTerm& window = folded.terms[folded.count++];
  window.kind = pattern_kind("sliding_window");
  window.num_ints = 2;
  for (int n = 0; n < 2; ++n) window.ints[n] = tighter(sides[n], band[n] < 0 ? -1 : band[n] / dilation);
  spec = folded;
  in.residues = dilation;
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
  const auto& name = patterns()[in.pattern.terms[0].kind].name;
  const bool lists = one && (name == "block_mask" || name == "big_bird");
  const bool short_spans = block_of(in.pattern) == 64 && !lists;
  in.uneven = !short_spans && !(one && keeps_everything(in.pattern.terms[0]));
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

template <class Arguments, class Check>
Status run(Pass pass, Arguments& arguments, const char* name, Arch arch, const Execution& execution, Check check) {
  const NormalizerInfo* normalizer = general_normalizer(name);
  if (!normalizer) return report(StatusCode::invalid_value, std::string("unknown normalizer ") + name);
  if (Fault fault = check(arguments, *normalizer)) return report(fault.code, std::move(fault.reason));
  arguments.in.pattern = fold_bands(arguments.in.pattern);
  if (arch != Arch::cpu) {
    fold_residues(arguments.in);
    add_hints(arguments.in);
  }
  const std::vector<Key> keys = candidates(pass, arch, arguments.in, *normalizer);
  const Instance* instance = find_first(keys);
  if (!instance) return report(StatusCode::no_kernel, explain(keys.front()));
  if constexpr (std::is_same_v<Arguments, ForwardArguments>)
    return instance->forward(arguments, execution);
  else
    return instance->backward(arguments, execution);
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
    for (int n = 0; n < 2; ++n) sides[n] = tighter(sides[n], own[n]);
  }
  const bool limits = sides[0] >= 0 || sides[1] >= 0;
  if (limits || folded.count == 0) {
    PatternTerm& window = folded.terms[folded.count++];
    window.kind = pattern_kind("sliding_window");
    window.num_ints = 2;
    window.ints[0] = sides[0];
    window.ints[1] = sides[1];
  }
  return folded;
}

int saved_statistics(const char* normalizer) {
  const NormalizerInfo* info = general_normalizer(normalizer);
  return info ? info->saved : 0;
}

Status attention_forward(ForwardArguments& arguments, const char* normalizer, Arch arch, const Execution& execution) {
  return run(Pass::forward, arguments, normalizer, arch, execution, check_forward);
}

Status attention_backward(BackwardArguments& arguments, const char* normalizer, Arch arch, const Execution& execution) {
  return run(Pass::backward, arguments, normalizer, arch, execution, check_backward);
}

}  // namespace splash::kernels
