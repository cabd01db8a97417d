// What a Hopper instance asks of a call before it is launched. Host code alone, so that a plan can ask it, too.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "splash/core/report.hpp"
#include "splash/tuning/sm90/candidates.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// Why TMA cannot read a view, and the tensor method whose result it can; reason == nullptr where it can. Element size
/// 2 bytes.
struct Unmappable {
  const char* reason = nullptr;
  const char* remedy = nullptr;
};

inline Unmappable unmappable(const TensorView& view) {
  if (view.shape[3] > 1 && view.stride[3] != 1) return {"its last stride is not 1", "contiguous"};
  if (view.shape[2] > 1 && view.stride[2] == 0) return {"its rows are expanded (stride 0)", "contiguous"};
  for (int d = 0; d < 3; ++d)
    if (view.shape[d] > 1 && (view.stride[d] * 2) % 16) return {"a stride is not a multiple of 16 bytes", "contiguous"};
  for (int d = 0; d < 3; ++d)
    if (view.shape[d] > 1 && view.stride[d] < 0) return {"a stride is negative", "contiguous"};
  if (reinterpret_cast<uintptr_t>(view.data) % 16) return {"its address is not a multiple of 16 bytes", "clone"};
  return {};
}

/// Of any Hopper instance of this head dimension that loads keys in boxes of these widths.
inline Fault fits_sm90(std::span<const Operand> operands, const Layout& layout, int head_dim,
                       std::initializer_list<int> key_boxes) {
  const int64_t wanted = operands.empty() ? head_dim : operands[0].view->shape[3];
  if (wanted > head_dim || wanted % 8)
    return {StatusCode::no_kernel, "the head dimension must be a multiple of 8 and at most that of the instance"};
  for (const Operand& operand : operands)
    if (const Unmappable why = unmappable(*operand.view); why.reason) {
      const std::string name = operand.name;
      return {StatusCode::invalid_value,
              name + " cannot be loaded on CUDA: " + why.reason + "; pass " + name + "." + why.remedy + "()"};
    }
  for (const int width : key_boxes)
    if (!layout.key_runs.fill_tiles(width))
      return {StatusCode::no_kernel, "the runs of keys do not fill the tiles of the instance"};
  return {};
}

template <class Pattern, class Normalizer>
inline constexpr bool kResumes = normalizers::kMerges<Normalizer> && patterns::kIsPart<Pattern>;

/// accumulate: the call goes on from an earlier one's output.
template <class Pattern, class Normalizer, int HeadDim, tuning::Spans Span>
Fault fits_forward_sm90(std::span<const Operand> operands, const Layout& layout, bool accumulate) {
  constexpr int kBox = tuning::forward_sm90<Pattern, Normalizer>(HeadDim, Span).tile.columns;
  constexpr int kOther =
      normalizers::kListsCandidates<Normalizer> ? tuning::candidates_sm90(HeadDim, Span).tile.columns : kBox;
  if (Fault fault = fits_sm90(operands, layout, HeadDim, {kBox, kOther})) return fault;
  if (accumulate && !kResumes<Pattern, Normalizer>)
    return {StatusCode::no_kernel, "this pattern cannot go on from an earlier call's output"};
  return {};
}

/// Keys are rows, in boxes of 64, and columns, in tiles of up to 128.
template <class Pattern, class Normalizer, int HeadDim, tuning::Spans Span>
Fault fits_backward_sm90(std::span<const Operand> operands, const Layout& layout, bool) {
  return fits_sm90(operands, layout, HeadDim, {64, 128});
}

}  // namespace device
SPLASH_NAMESPACE_END
