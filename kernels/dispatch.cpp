#include "kernels/dispatch.hpp"

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/checks.hpp"
#include "kernels/parts.hpp"
#include "kernels/report.hpp"
#include "splash/patterns/concept.hpp"

namespace splash::kernels {
namespace {

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
  const auto& name = patterns()[in.pattern.terms[0].kind].name;
  const bool lists = one && (name == "block_mask" || name == "big_bird");
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

Status run_whole(Pass pass, const auto& arguments, const NormalizerInfo& normalizer, Arch arch,
                 const Execution& execution) {
  const std::vector<Key> keys = candidates(pass, arch, arguments.in, normalizer);
  const Instance* instance = find_first(keys);
  if (!instance) return report(StatusCode::no_kernel, explain(keys.front()));
  if constexpr (std::is_same_v<decltype(arguments), const ForwardArguments&>)
    return instance->forward(arguments, execution);
  else
    return instance->backward(arguments, execution);
}

/// Whether an instance can go on from the output of an earlier call.
bool resumes(const Instance& instance) {
  const int kind = pattern_kind(instance.key.pattern);
  return kind >= 0 && patterns()[kind].resumes;
}

/// Calls about disjoint keys of the same rows, each merged with those before it. What takes part in the denominator
/// beside the keys comes in with the last of them. no_kernel where there are no instances for them; what was computed
/// then means nothing.
Status run_merged(ForwardArguments arguments, std::vector<AttentionInputs> calls, const NormalizerInfo& normalizer,
                  Arch arch, const Execution& execution) {
  const NormalizerInfo* keys_alone =
      normalizer.parameters == 0 ? &normalizer : general_normalizer(std::string(normalizer.extends).c_str());
  std::vector<const Instance*> instances;
  for (AttentionInputs& call : calls) {
    const bool last = &call == &calls.back();
    if (!last) call.normalizer = {};
    const NormalizerInfo* own = last ? &normalizer : keys_alone;
    add_hints(call);
    instances.push_back(own ? find_first(candidates(Pass::forward, arch, call, *own)) : nullptr);
    if (!instances.back() || (&call != &calls.front() && !resumes(*instances.back())))
      return {StatusCode::no_kernel, ""};
  }
  for (size_t n = 0; n < calls.size(); ++n) {
    arguments.in = calls[n];
    arguments.accumulate = n > 0;
    arguments.beside &= n == 0;
    if (Status status = instances[n]->forward(arguments, execution); !status.ok()) return status;
  }
  return {};
}

Status run_on_gpu(ForwardArguments& arguments, const NormalizerInfo& normalizer, Arch arch,
                  const Execution& execution) {
  bool beside = false;
  for (const AttentionInputs& own : split_heads(arguments.in)) {
    arguments.in = own;
    arguments.beside = std::exchange(beside, true);
    fold_residues(arguments.in);
    if (normalizer.merges && arguments.in.residues == 1) {
      std::vector<AttentionInputs> calls = split_keys(arguments.in);
      if (!calls.empty()) {
        const Status status = run_merged(arguments, std::move(calls), normalizer, arch, execution);
        if (status.ok()) continue;
        if (status.code != StatusCode::no_kernel) return status;
      }
    }
    add_hints(arguments.in);
    if (Status status = run_whole(Pass::forward, arguments, normalizer, arch, execution); !status.ok()) return status;
  }
  return {};
}

Status run_on_gpu(BackwardArguments& arguments, const NormalizerInfo& normalizer, Arch arch,
                  const Execution& execution) {
  const auto runs = [&](const AttentionInputs& in) {
    return find_first(candidates(Pass::backward, arch, in, normalizer)) != nullptr;
  };
  const std::vector<GradientPart> calls = split_gradients(arguments.in, runs);
  const TensorView& q = arguments.in.q;
  if (const int64_t bytes = 8 * q.shape[0] * q.shape[1] * q.shape[2]; calls.size() > 1 && bytes && execution.allocate)
    arguments.numbers = execution.allocate(execution.allocate_context, bytes);
  for (const GradientPart& call : calls) {
    arguments.in = call.in;
    arguments.adds_queries = call.adds_queries;
    arguments.adds_keys = call.adds_keys;
    add_hints(arguments.in);
    if (Status status = run_whole(Pass::backward, arguments, normalizer, arch, execution); !status.ok()) return status;
    arguments.first = false;
  }
  return {};
}

template <class Arguments, class Check>
Status run(Pass pass, Arguments& arguments, const char* name, Arch arch, const Execution& execution, Check check) {
  const NormalizerInfo* normalizer = general_normalizer(name);
  if (!normalizer) return report(StatusCode::invalid_value, std::string("unknown normalizer ") + name);
  if (Fault fault = check(arguments, *normalizer)) return report(fault.code, std::move(fault.reason));
  arguments.in.pattern = fold_bands(arguments.in.pattern);
  return arch == Arch::cpu ? run_whole(pass, arguments, *normalizer, arch, execution)
                           : run_on_gpu(arguments, *normalizer, arch, execution);
}

}  // namespace

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
