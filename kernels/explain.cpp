// Keys as text, and the nearest row for a key that has none.
#include <algorithm>
#include <charconv>

#include "kernels/registry.hpp"
#include "kernels/text.hpp"

namespace splash::kernels {
namespace {

constexpr const char* kOps[] = {"attention", "entmax_rows", "longnet_mix"};
constexpr const char* kPasses[] = {"forward", "backward"};
constexpr const char* kDTypes[] = {"float16", "bfloat16", "float32", "float64", "int32", "int64", "bool"};

/// A field that differs, and how far away that makes the row: what a caller can change easily weighs little.
struct Difference {
  int weight = 0;
  std::string text;
};

std::string number(int value) { return value == 0 ? "any" : join(value); }

void compare(Difference& difference, int weight, const char* field, const std::string& wanted, const std::string& row) {
  if (wanted == row) return;
  difference.weight += weight;
  difference.text +=
      (difference.text.empty() ? "" : ", ") + std::string(field) + " is " + wanted + ", compiled is " + row;
}

/// The GPUs of a row for all of them.
std::string names_of_gpus(Arch arch) {
  std::string names;
  if (arch == Arch::cuda)
    for (const Arch gpu : gpu_archs()) names.append(names.empty() ? "" : " or ").append(name_of(gpu));
  return names.empty() ? name_of(arch) : names;
}

Difference difference(const Key& wanted, const Key& row) {
  Difference result;
  if (row.arch != Arch::cuda || std::ranges::find(gpu_archs(), wanted.arch) == gpu_archs().end())
    compare(result, 32, "arch", name_of(wanted.arch), names_of_gpus(row.arch));
  compare(result, 16, "pass", name_of(wanted.pass), name_of(row.pass));
  Key as_wanted = row;  // the row may compute what is wanted under another name
  as_wanted.normalizer = wanted.normalizer;
  if (const Instance* serving = find(as_wanted); !serving || serving->key.normalizer != row.normalizer)
    compare(result, 8, "normalizer", wanted.normalizer, row.normalizer);
  if (wanted.op == Op::attention && row.pattern != "any") compare(result, 4, "pattern", wanted.pattern, row.pattern);
  compare(result, 2, "dtype", name_of(wanted.dtype), name_of(row.dtype));
  if (row.head_dim != 0 && row.head_dim < wanted.head_dim)
    compare(result, 1, "head_dim", number(wanted.head_dim), number(row.head_dim));
  if (row.span != Spans::any) compare(result, 1, "span", name_of(wanted.span), name_of(row.span));
  return result;
}

template <class Value, std::size_t N>
bool parse(std::string_view text, const char* const (&names)[N], Value& value) {
  for (std::size_t n = 0; n < N; ++n)
    if (names[n] == text) return value = Value(n), true;
  return false;
}

}  // namespace

const char* name_of(Op op) { return kOps[int(op)]; }
const char* name_of(Pass pass) { return kPasses[int(pass)]; }
std::string name_of(Arch arch) {
  if (arch == Arch::cpu || arch == Arch::cuda) return arch == Arch::cpu ? "cpu" : "cuda";
  return join("sm", int(arch));
}

bool parse_arch(std::string_view text, Arch& arch) {
  for (const Arch known : {Arch::cpu, Arch::cuda})
    if (text == name_of(known)) return arch = known, true;
  int number = 0;
  if (!text.starts_with("sm")) return false;
  const auto [end, error] = std::from_chars(text.data() + 2, text.data() + text.size(), number);
  arch = Arch(number);
  return error == std::errc() && end == text.data() + text.size() && number > 1;
}

bool parse_pass(std::string_view text, Pass& pass) { return parse(text, kPasses, pass); }

const char* name_of(DType dtype) { return kDTypes[int(dtype)]; }
const char* name_of(Spans span) { return tuning::kSpanNames[int(span)]; }

std::string to_string(const Key& key) {
  if (key.op != Op::attention)
    return join(name_of(key.op), " ", name_of(key.pass), " on ", name_of(key.arch), ", ", name_of(key.dtype));
  return join(name_of(key.pass), " on ", name_of(key.arch), ", pattern ", key.pattern, ", normalizer ", key.normalizer,
              ", ", name_of(key.dtype), ", head_dim ", number(key.head_dim), ", span ", name_of(key.span));
}

std::string explain(const Key& key) {
  if (find(key)) return "";
  const Instance* nearest = nullptr;
  Difference least;
  for (const Instance& row : instances()) {
    if (row.key.op != key.op) continue;
    Difference candidate = difference(key, row.key);
    if (nearest && candidate.weight >= least.weight) continue;
    nearest = &row;
    least = std::move(candidate);
  }
  std::string text = "no compiled instance for " + to_string(key);
  if (nearest) text += "; the nearest one (" + to_string(nearest->key) + ") differs: " + least.text;
  return text;
}

}  // namespace splash::kernels

extern "C" const char* splash_explain(const char* pass, const char* arch, const char* pattern, const char* normalizer,
                                      const char* dtype, int head_dim, const char* span) {
  using namespace splash::kernels;
  Key key;
  const bool known = parse(pass, kPasses, key.pass) && parse_arch(arch, key.arch) && parse(dtype, kDTypes, key.dtype) &&
                     parse(span, splash::tuning::kSpanNames, key.span);
  key.pattern = pattern;
  key.normalizer = normalizer;
  key.head_dim = head_dim;
  return splash::keep(known ? explain(key) : "");
}
