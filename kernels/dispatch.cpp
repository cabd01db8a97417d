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

/// The finest granularity that has instances of its own and divides this many columns; 0 where none does.
int block_of(const PatternTerm& term) {
  const PatternInfo& info = patterns()[term.kind];
  if (!info.block) return 0;
  const int columns = info.block(term);
  return columns % 128 == 0 ? 128 : (columns % 64 == 0 ? 64 : 0);
}

/// Keys that would serve the problem, the best first.
std::vector<Key> candidates(Pass pass, Arch arch, const AttentionInputs& in, const NormalizerInfo& normalizer) {
  std::vector<Key> keys;
  for (const std::string& row : normalizer_rows(normalizer, in.normalizer)) {
    Key key{pass, arch, "any", row, in.q.dtype, int(in.q.shape[3]), 0};
    if (in.pattern.count == 1) {
      const PatternTerm& term = in.pattern.terms[0];
      Key exact = key;
      exact.pattern = patterns()[term.kind].name;
      exact.block = block_of(term);
      keys.push_back(exact);
    }
    keys.push_back(key);
  }
  return keys;
}

template <class Arguments, class Check>
Status run(Pass pass, Arguments& arguments, const char* name, Arch arch, const Execution& execution, Check check) {
  const NormalizerInfo* normalizer = general_normalizer(name);
  if (!normalizer) return report(StatusCode::invalid_value, std::string("unknown normalizer ") + name);
  if (Fault fault = check(arguments, *normalizer)) return report(fault.code, std::move(fault.reason));
  if (arch != Arch::cpu && arguments.in.positions.cu_queries)
    return report(StatusCode::no_kernel, "packed sequences have kernels on the CPU only; on " + name_of(arch) +
                                             " the nearest are padded batches with lengths");
  arguments.in.pattern = fold_bands(arguments.in.pattern);
  const std::vector<Key> keys = candidates(pass, arch, arguments.in, *normalizer);
  for (const Key& key : keys) {
    const Instance* instance = find(key);
    if (!instance) continue;
    if constexpr (std::is_same_v<Arguments, ForwardArguments>)
      return instance->forward(arguments, execution);
    else
      return instance->backward(arguments, execution);
  }
  return report(StatusCode::no_kernel, explain(keys.front()));
}

int64_t tighter(int64_t a, int64_t b) { return a < 0 ? b : (b < 0 ? a : std::min(a, b)); }

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
