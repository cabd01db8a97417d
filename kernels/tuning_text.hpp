// What the kernels of an instance are tuned to, as JSON: the fields of tuning/sm90/kernel.hpp by their names.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "kernels/text.hpp"
#include "splash/tuning/sm90/backward.hpp"
#include "splash/tuning/sm90/candidates.hpp"

namespace splash::kernels {

inline std::string json_object(std::initializer_list<std::pair<const char*, std::string>> members) {
  std::string text = "{";
  for (const auto& [name, value] : members) text += join(text.size() > 1 ? ", \"" : "\"", name, "\": ", value);
  return text + "}";
}

inline std::string to_json(const tuning::KernelSm90& kernel) {
  const auto& [tile, pipeline, warps, registers, schedule] = kernel;
  const auto flag = [](bool value) { return std::string(value ? "true" : "false"); };
  return json_object({
      {"tile", json_object({{"consumers", join(tile.consumers)}, {"columns", join(tile.columns)}})},
      {"pipeline", json_object({{"first_stages", join(pipeline.first_stages)},
                                {"second_stages", join(pipeline.second_stages)},
                                {"row_buffers", join(pipeline.row_buffers)},
                                {"mask_slots", join(pipeline.mask_slots)}})},
      {"warps", json_object({{"producers", join(warps.producers)},
                             {"teams", join(warps.teams)},
                             {"blocks_per_sm", join(warps.blocks_per_sm)}})},
      {"registers", json_object({{"consumer", join(registers.consumer)}, {"producer", join(registers.producer)}})},
      {"schedule", json_object({{"pingpong", flag(schedule.pingpong)},
                                {"early", flag(schedule.early)},
                                {"overlap", flag(schedule.overlap)},
                                {"epilogue_overlap", flag(schedule.epilogue_overlap)},
                                {"by_output", flag(schedule.by_output)}})},
  });
}

template <class Pattern, class Normalizer, int HeadDim, tuning::Spans Span>
std::string forward_tuning_sm90() {
  std::string text = json_object({{"forward", to_json(tuning::forward_sm90<Pattern, Normalizer>(HeadDim, Span))}});
  if constexpr (normalizers::kListsCandidates<Normalizer>) {
    text.pop_back();
    text += join(", \"candidates\": ", to_json(tuning::candidates_sm90(HeadDim, Span)), "}");
  }
  return text;
}

template <class Pattern, int HeadDim, tuning::Spans Span>
std::string backward_tuning_sm90() {
  using tuning::Gradients, tuning::kBackwardSm90;
  std::string text = json_object({{"dq", to_json(kBackwardSm90<Pattern, HeadDim, Gradients::queries, Span>)},
                                  {"dk_dv", to_json(kBackwardSm90<Pattern, HeadDim, Gradients::keys_values, Span>)}});
  const auto add = [&](const char* name, const tuning::KernelSm90& kernel) {
    text.pop_back();
    text += join(", \"", name, "\": ", to_json(kernel), "}");
  };
  if constexpr (tuning::kFusesSm90<Pattern, HeadDim, Span>)
    add("fused", kBackwardSm90<Pattern, HeadDim, Gradients::all, Span>);
  if constexpr (tuning::kClosesSm90<Pattern, HeadDim>)
    add("closed", kBackwardSm90<Pattern, HeadDim, Gradients::closed, Span>);
  return text;
}

}  // namespace splash::kernels
