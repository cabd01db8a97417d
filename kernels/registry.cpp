#include "kernels/registry.hpp"

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "kernels/table.hpp"

namespace splash::kernels {
namespace {

#if defined(__x86_64__)
constexpr const char* kIsaNames[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};

int supported_level() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return 2;
  return __builtin_cpu_supports("x86-64-v3") ? 1 : 0;
}
#else
constexpr const char* kIsaNames[] = {"generic"};

int supported_level() { return 0; }
#endif

/// Whether a normalizer, without its parameters, computes another one.
bool extends(std::string_view name, std::string_view other) {
  for (const NormalizerInfo& row : normalizers())
    if (row.name == name) return row.extends == other;
  return false;
}

/// The first pattern with this value of a field; -1 where there is none.
template <class Field>
int place_of(Field PatternInfo::* field, const Field& value) {
  const auto rows = patterns();
  const auto found = std::ranges::find(rows, value, field);
  return found == rows.end() ? -1 : int(found - rows.begin());
}

bool runs_on(Arch row, Arch device) {
  return row == device || (row == Arch::cuda && std::ranges::find(gpu_archs(), device) != gpu_archs().end());
}

bool serves(const Key& row, const Key& wanted) {
  return row.op == wanted.op && row.pass == wanted.pass && row.dtype == wanted.dtype &&
         runs_on(row.arch, wanted.arch) && row.pattern == wanted.pattern &&
         (row.normalizer == wanted.normalizer || extends(row.normalizer, wanted.normalizer)) &&
         (row.head_dim == 0 || row.head_dim >= wanted.head_dim) && (row.span == Spans::any || row.span == wanted.span);
}

}  // namespace

int cpu_level() {
  static const int level = [] {
    const int supported = supported_level();
    const char* wish = std::getenv("SPLASH_CPU_ISA");
    for (int n = 0; wish && n < supported; ++n)
      if (std::string_view(wish) == kIsaNames[n]) return n;
    return supported;
  }();
  return level;
}

const char* cpu_isa() { return kIsaNames[cpu_level()]; }

const Instance* find(const Key& key) {
  const Instance* best = nullptr;
  const auto better = [&](const Key& row) {
    if (!best) return true;
    const Key& other = best->key;
    const auto rank = [&](const Key& a) {
      return std::tuple(a.normalizer != key.normalizer, a.head_dim, a.span == Spans::any);
    };
    return rank(row) < rank(other);
  };
  for (const Instance& row : instances())
    if (serves(row.key, key) && better(row.key)) best = &row;
  return best;
}

int pattern_kind(std::string_view name) { return place_of(&PatternInfo::name, name); }
int pattern_kind(patterns::TypeId type) { return place_of(&PatternInfo::type, type); }

}  // namespace splash::kernels
