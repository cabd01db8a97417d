// What the generated table.cpp is written in.
#pragma once

#include <utility>

#include "kernels/registry.hpp"
#include "kernels/tuning_text.hpp"
#include "splash/core/row_lists.hpp"
#include "splash/device/sm90/fits.hpp"
#include "splash/device/sm90/strategy.hpp"
#include "splash/normalizers/concept.hpp"
#include "splash/patterns/sliding_window.hpp"
#include "splash/tuning/spans.hpp"

namespace splash::kernels {

/// Place of the instruction set that this machine runs, counted as the list in the build: 0 is the lowest.
int cpu_level();

/// One function a level, the lowest first.
template <class Function, class... Functions>
Function pick(Function lowest, Functions... higher) {
  const Function all[] = {lowest, higher...};
  const int level = cpu_level();
  return all[level < int(1 + sizeof...(higher)) ? level : int(sizeof...(higher))];
}

template <class Arguments>
Instance cpu_row(Key key, Run<Arguments> function) {
  return {std::move(key), function};
}

/// Of kernels that every GPU of the build runs.
template <class Arguments>
Instance cuda_row(Key key, Run<Arguments> function) {
  return {std::move(key), function};
}

template <class Pattern, class Normalizer, int HeadDim, tuning::Spans Span>
Instance sm90_row(Key key, Forward forward) {
  return {std::move(key), forward, device::fits_forward_sm90<Pattern, Normalizer, HeadDim, Span>, nullptr,
          forward_tuning_sm90<Pattern, Normalizer, HeadDim, Span>};
}

template <class Pattern>
Pattern pattern_from(const PatternSpec& spec) {
  if constexpr (patterns::TablePattern<Pattern>)
    return Pattern::from(spec.terms[0]);
  else
    return Pattern::from(spec);
}

template <class Pattern, class Normalizer, int HeadDim, tuning::Spans Span>
Instance sm90_row(Key key, Backward backward) {
  if constexpr (splash::normalizers::kListsCandidates<Normalizer>)
    return {std::move(key), backward, device::fits_backward_sm90<Pattern, Normalizer, HeadDim, Span>, nullptr, nullptr};
  const TellStrategy strategy = [](const AttentionInputs& in, const PatternSpec& pattern, const Layout& layout,
                                   const BackwardJoin& join, bool deterministic, bool learns) {
    return device::words(device::strategy_backward_sm90<Pattern, HeadDim, Span>(pattern_from<Pattern>(pattern), in,
                                                                                layout, join, deterministic, learns));
  };
  return {std::move(key), backward, device::fits_backward_sm90<Pattern, Normalizer, HeadDim, Span>, strategy,
          backward_tuning_sm90<Pattern, HeadDim, Span>};
}

template <splash::patterns::TablePattern P>
constexpr PatternInfo pattern(std::string_view name, int ints, int tensors, bool internal = false) {
  PatternInfo info{name, patterns::type_id<P>(), ints, tensors};
  info.internal = internal;
  info.lists = patterns::BlockListPattern<P>;
  if constexpr (splash::patterns::Band<P>) {
    info.band = [](const PatternTerm& term, int64_t (&sides)[2]) {
      const splash::patterns::SlidingWindow window = P::from(term).band();
      sides[0] = window.left == kUnlimited ? -1 : window.left;
      sides[1] = window.right == kUnlimited ? -1 : window.right;
    };
  }
  if constexpr (requires(const PatternTerm& term) { P::tile_columns(term, tuning::kTileWidths); })
    info.spans = [](const PatternTerm& term) {
      return tuning::spans_of(P::tile_columns(term, tuning::kTileWidths), patterns::BlockListPattern<P>);
    };
  if constexpr (requires(const PatternTerm& term, const AttentionInputs& in) { P::misfit(term, in); })
    info.misfit = &P::misfit;
  if constexpr (requires(const PatternTerm& term, const AttentionInputs& in) { P::global_rows(term, in); })
    info.global_rows = [](const PatternTerm& term, const AttentionInputs& in, int64_t (&rows)[2]) {
      const splash::patterns::GlobalRows global = P::global_rows(term, in);
      rows[0] = global.first;
      rows[1] = global.last;
    };
  if constexpr (requires(const PatternTerm& term, const AttentionInputs& in) { P::global_columns(term, in); })
    info.global_columns = [](const PatternTerm& term, const AttentionInputs& in, int64_t (&columns)[2]) {
      const splash::patterns::GlobalRows global = P::global_columns(term, in);
      columns[0] = global.first;
      columns[1] = global.last;
    };
  if constexpr (requires(const PatternTerm& term, int64_t n, int64_t (&sides)[2]) { P::residues(term, n, sides); })
    info.residues = &P::residues;
  if constexpr (requires { P::parts; }) info.parts = &P::parts;
  if constexpr (requires { P::of_head; }) info.of_head = &P::of_head;
  if constexpr (requires { P::kList; }) info.list = P::kList;
  return info;
}

/// `info` holds what the table says; the rest is what the type says.
template <splash::normalizers::Normalizer N>
constexpr NormalizerInfo normalizer(NormalizerInfo info) {
  info.saved = N::kSaved;
  info.lists = splash::normalizers::kListsCandidates<N>;
  info.saved_on_gpu = info.lists ? kListPlanes : N::kSaved;
  info.merges = splash::normalizers::kMerges<N>;
  info.bias = splash::normalizers::kHasBias<N>;
  static_assert(splash::normalizers::kRowGradientsOf<N> + splash::normalizers::kHasBias<N> <= kMaxParameters,
                "a normalizer has more parameters than NormalizerSpec holds");
  info.parameters = splash::normalizers::kRowGradientsOf<N> + splash::normalizers::kHasBias<N>;
  return info;
}

}  // namespace splash::kernels
