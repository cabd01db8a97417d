// The texts of NoKernelError, from a table as small as it can be: the nearest row, and all that differs from it. And
// how texts are made of parts.
#include <cmath>
#include <cstdint>
#include <string>

#include "check.hpp"
#include "kernels/registry.hpp"
#include "kernels/text.hpp"

namespace splash::kernels {

std::span<const PatternInfo> patterns() { return {}; }
std::span<const NormalizerInfo> normalizers() {
  static constexpr NormalizerInfo rows[] = {
      {"softmax", "softmax", ""}, {"softmax_sink", "softmax_sink", "softmax"}, {"entmax", "entmax", ""}};
  return rows;
}
std::span<const Arch> gpu_archs() {
  static constexpr Arch archs[] = {Arch::sm90};
  return archs;
}

std::span<const Instance> instances() {
  static const Instance rows[] = {
      {{Pass::forward, Arch::cpu, "any", "softmax", DType::float32, 0}},
      {{Pass::backward, Arch::cpu, "any", "entmax", DType::float32, 0}},
      {{Pass::forward, Arch::sm90, "any", "entmax", DType::bfloat16, 128}},
      {{Pass::forward, Arch::sm90, "any", "softmax_sink", DType::bfloat16, 128}},
      {{Pass::backward, Arch::sm90, "any", "softmax_sink", DType::bfloat16, 128}},
      {{Pass::forward, Arch::cuda, "", "", DType::float16, 0, Spans::any, Op::entmax_rows}},
      {{Pass::forward, Arch::cpu, "", "", DType::float64, 0, Spans::any, Op::entmax_rows}},
  };
  return rows;
}

}  // namespace splash::kernels

namespace {

using namespace splash;
using namespace splash::kernels;

void check_text(const Key& key, const std::string& wanted) {
  const std::string text = explain(key);
  const bool ends = wanted.empty() ? text.empty() : text.ends_with(" differs: " + wanted);
  check::that(ends, "'%s' does not end with '%s'", text.c_str(), wanted.c_str());
}

/// Operators that are no attention, and rows that every GPU of the build runs.
void check_other_operators() {
  const auto key = [](Arch arch, DType dtype, Op op = Op::entmax_rows) {
    return Key{Pass::forward, arch, "", "", dtype, 0, Spans::any, op};
  };
  check_text(key(Arch::sm90, DType::float16), "");
  check_text(key(Arch::cuda, DType::float16), "");
  check_text(key(Arch::cpu, DType::float64), "");
  check_text(key(Arch::sm90, DType::float64), "dtype is float64, compiled is float16");
  check_text(key(Arch(80), DType::float16), "arch is sm80, compiled is sm90");
  const std::string start =
      "no compiled instance for entmax_rows forward on sm80, float16; the nearest one (entmax_rows "
      "forward on cuda, float16)";
  check::that(explain(key(Arch(80), DType::float16)).starts_with(start), "'%s'",
              explain(key(Arch(80), DType::float16)).c_str());
  const std::string none = explain(key(Arch::cpu, DType::float16, Op::longnet_mix));
  check::that(none == "no compiled instance for longnet_mix forward on cpu, float16", "'%s'", none.c_str());
}

void check_join(const std::string& text, const std::string& wanted) {
  check::that(text == wanted, "'%s' is not '%s'", text.c_str(), wanted.c_str());
}

void check_joins() {
  check_join(join(), "");
  check_join(join("head ", std::string("dim"), ' ', std::string_view("of "), 3), "head dim of 3");
  check_join(join(INT64_MIN, ", ", UINT64_MAX, ", ", int8_t(-1), ", ", size_t(0)),
             "-9223372036854775808, 18446744073709551615, -1, 0");
  check_join(join(1.5, ", ", 0.1, ", ", 0.1f, ", ", -0.0, ", ", 1e300, ", ", 5e-324, ", ", 2.0),
             "1.5, 0.1, 0.1, -0, 1e+300, 5e-324, 2");
  check_join(join(NAN, ", ", HUGE_VAL, ", ", -HUGE_VAL), "nan, inf, -inf");
}

}  // namespace

int main() {
  check_joins();
  const Key softmax{Pass::backward, Arch::sm90, "any", "softmax", DType::bfloat16, 64};
  const auto with = [&](auto change) {
    Key key = softmax;
    change(key);
    return key;
  };
  check_text(softmax, "");  // softmax_sink computes it
  check_text(with([](Key& key) { key.dtype = DType::float32; }), "dtype is float32, compiled is bfloat16");
  check_text(with([](Key& key) { key.head_dim = 256; }), "head_dim is 256, compiled is 128");
  check_text(with([](Key& key) { key.pass = Pass::forward, key.head_dim = 256; }), "head_dim is 256, compiled is 128");
  check::that(
      explain(with([](Key& key) { key.pass = Pass::forward, key.head_dim = 256; })).find("entmax") == std::string::npos,
      "a row of entmax is no nearer to softmax than one of softmax_sink");
  check_text(with([](Key& key) { key.dtype = DType::float32, key.head_dim = 256; }),
             "dtype is float32, compiled is bfloat16, head_dim is 256, compiled is 128");
  check_text(with([](Key& key) { key.arch = Arch(80); }), "arch is sm80, compiled is sm90");
  for (const char* other : {"entmax", "elastic"}) {
    const Key key = with([&](Key& key) { key.normalizer = other; });
    check_text(key, std::string("normalizer is ") + other + ", compiled is softmax_sink");
    const std::string start =
        std::string("no compiled instance for backward on sm90, pattern any, normalizer ") + other;
    check::that(explain(key).starts_with(start + ", bfloat16"), "'%s'", explain(key).c_str());
  }
  check_other_operators();
  return check::summary("test_explain");
}
