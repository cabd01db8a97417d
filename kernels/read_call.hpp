// Pattern and normalizer of a call, from the names and flat lists that the operators take.
#pragma once

#include <algorithm>
#include <ranges>
#include <span>
#include <string>
#include <string_view>

#include "kernels/registry.hpp"
#include "kernels/text.hpp"

namespace splash::kernels {

template <class... Parts>
Fault invalid_value(const Parts&... parts) {
  return {StatusCode::invalid_value, join(parts...)};
}

/// A view of packed tokens (T, H, D) as problems read it, (1, H, T, D); any other one stays.
inline TensorView heads_first(const TensorView& view) {
  if (view.rank != 3) return view;
  const auto& [tokens, heads, dim, _] = view.shape;
  return {view.data,
          view.dtype,
          4,
          {1, heads, tokens, dim},
          {heads * view.stride[1], view.stride[1], view.stride[0], view.stride[2]}};
}

/// A list for the reader of an error text.
template <class Infos>
std::string names_of(Infos&& infos) {
  std::string names;
  for (const auto& info : infos) names.append(names.empty() ? "" : ", ").append(info.name);
  return names;
}

/// Takes the terms of a pattern off the flat lists, one after the other. tensor(n): the view of tensor n of `tensors`.
template <class TensorOf>
class PatternReader {
 public:
  PatternReader(std::string_view pattern, std::span<const int64_t> ints, size_t tensors, const TensorOf& tensor)
      : pattern_(pattern), ints_(ints), tensors_(tensors), tensor_(tensor) {}

  Fault read(PatternSpec& spec) {
    for (const auto part : std::views::split(pattern_, '&')) {
      if (spec.count == kMaxTerms)
        return invalid_value("pattern '", pattern_, "' joins more than ", kMaxTerms, " terms");
      if (Fault fault = read_term(std::string_view(part.begin(), part.end()), spec.terms[spec.count++])) return fault;
    }
    if (spec.count == 0) return unknown("");
    if (Fault fault = unused("pattern_ints", "numbers", next_int_, ints_.size())) return fault;
    return unused("pattern_tensors", "tensors", next_tensor_, tensors_);
  }

 private:
  Fault read_term(std::string_view name, PatternTerm& term) {
    term.kind = pattern_kind(name);
    if (term.kind < 0) return unknown(name);
    const PatternInfo& info = patterns()[term.kind];
    term.num_ints = info.ints;
    term.num_tensors = info.tensors;
    for (int n = 0; n < term.num_ints; ++n, ++next_int_)
      if (next_int_ < ints_.size()) term.ints[n] = ints_[next_int_];
    if (info.list)
      if (Fault fault = read_list(term)) return fault;
    for (int n = 0; n < term.num_tensors; ++n, ++next_tensor_)
      if (next_tensor_ < tensors_) term.tensors[n] = tensor_(next_tensor_);
    return {};
  }

  /// Its length, and the numbers themselves, which stay where they are.
  Fault read_list(PatternTerm& term) {
    if (next_int_ >= ints_.size()) return ++next_int_, Fault{};
    term.list_size = ints_[next_int_++];
    if (term.list_size < 0 || term.list_size > int64_t(ints_.size() - next_int_))
      return invalid_value("pattern_ints has ", ints_.size(), " numbers; a list of pattern '", pattern_, "' takes ",
                           term.list_size, " from number ", next_int_, " on");
    term.list = ints_.data() + next_int_;
    next_int_ += size_t(term.list_size);
    return {};
  }

  Fault unknown(std::string_view name) const {
    return invalid_value("pattern '", pattern_, "' has the unknown term '", name, "'; known are ",
                         names_of(patterns() | std::views::filter([](const auto& info) { return !info.internal; })));
  }

  Fault unused(const char* list, const char* what, size_t used, size_t given) const {
    if (used == given) return {};
    return invalid_value(list, " has ", given, " ", what, "; pattern '", pattern_, "' takes ", used);
  }

  std::string_view pattern_;
  std::span<const int64_t> ints_;
  size_t tensors_;
  const TensorOf& tensor_;
  size_t next_int_ = 0, next_tensor_ = 0;
};

/// parameter(n): the view of parameter n of `parameters`.
template <class ParameterOf>
Fault read_normalizer(NormalizerSpec& spec, std::string_view name, std::span<const double> floats, size_t parameters,
                      const ParameterOf& parameter) {
  auto infos = normalizers() | std::views::filter([](const auto& info) { return info.serves == info.name; });
  const auto info = std::ranges::find(infos, name, &NormalizerInfo::name);
  if (info == infos.end()) return invalid_value("normalizer is '", name, "'; known are ", names_of(infos));
  if (floats.size() != size_t(info->floats))
    return invalid_value("normalizer_floats has ", floats.size(), " numbers; normalizer '", name, "' takes ",
                         info->floats);
  spec.num_floats = info->floats;
  std::ranges::copy(floats, spec.floats);
  if (parameters != size_t(info->parameters))
    return invalid_value("normalizer_parameters has ", parameters, " tensors; normalizer '", name, "' takes ",
                         info->parameters);
  for (; spec.num_parameters < int(parameters); ++spec.num_parameters)
    spec.parameters[spec.num_parameters] = parameter(spec.num_parameters);
  return {};
}

}  // namespace splash::kernels
