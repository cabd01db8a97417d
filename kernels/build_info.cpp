// Build facts and the table as JSON, for callers without C++: the definitions come from CMake.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "kernels/registry.hpp"
#include "kernels/text.hpp"
#include "splash/core/frame.hpp"
#include "splash/patterns/element_mask.hpp"
#include "splash/patterns/index_causal.hpp"

namespace splash::kernels {
namespace {

std::string build_info() {
  std::string archs;
  for (const Arch arch : gpu_archs()) archs += join(archs.empty() ? "" : ", ", name_of(arch));
  const std::pair<const char*, std::string> facts[] = {
      {"version", SPLASH_VERSION},     {"commit", SPLASH_COMMIT},
      {"compiler", SPLASH_COMPILER},   {"build_type", SPLASH_BUILD_TYPE},
      {"torch", SPLASH_TORCH_VERSION}, {"cuda", SPLASH_CUDA_VERSION},
      {"cuda_archs", archs},           {"cpu_isa", cpu_isa()},
  };
  std::string text = "{";
  for (const auto& [name, value] : facts) text += join('"', name, "\": \"", value, "\", ");
  return text + join("\"instances\": ", instances().size(), "}");
}

std::string instances_json() {
  std::string text;
  const char* separator = "[";
  for (const Instance& row : instances()) {
    const Key& key = row.key;
    text += join(separator, "{\"op\": \"", name_of(key.op), "\", \"pass\": \"", name_of(key.pass), "\", \"arch\": \"",
                 name_of(key.arch), "\", \"dtype\": \"", name_of(key.dtype), "\"");
    if (key.op == Op::attention)
      text += join(", \"pattern\": \"", key.pattern, "\", \"normalizer\": \"", key.normalizer,
                   "\", \"head_dim\": ", key.head_dim, ", \"span\": \"", name_of(key.span), "\"");
    if (row.tuning) text += join(", \"kernels\": ", row.tuning());
    text += "}";
    separator = ",\n ";
  }
  return text + "]";
}

/// What the Python package repeats of C++: limits, and by the operators' names the normalizers.
std::string constants_json() {
  int head_dim = 0;
  for (const Instance& row : instances())
    if (row.key.arch != Arch::cpu) head_dim = std::max(head_dim, row.key.head_dim);
  std::string text =
      join("{\"max_position\": ", kMaxPosition, ", \"unlimited\": ", kUnlimited, ", \"max_terms\": ", kMaxTerms,
           ", \"max_rank\": ", std::extent_v<decltype(TensorView::shape)>,
           ", \"element_tile\": ", splash::patterns::ElementMask::kTile,
           ", \"index_group\": ", splash::patterns::IndexCausal::kGroup, ", \"cuda_head_dim\": ", head_dim,
           ", \"saved\": {");
  const char* separator = "";
  for (const NormalizerInfo& row : normalizers()) {
    if (row.serves != row.name) continue;
    text += join(separator, '"', row.name, "\": {\"cpu\": ", row.saved, ", \"cuda\": ", row.saved_on_gpu, "}");
    separator = ", ";
  }
  return text + "}}";
}

}  // namespace
}  // namespace splash::kernels

extern "C" const char* splash_build_info() {
  static const std::string text = splash::kernels::build_info();
  return text.c_str();
}

extern "C" const char* splash_constants_json() {
  static const std::string text = splash::kernels::constants_json();
  return text.c_str();
}

extern "C" const char* splash_instances_json() {
  static const std::string text = splash::kernels::instances_json();
  return text.c_str();
}
