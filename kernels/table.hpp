// What the generated table.cpp is written in.
#pragma once

#include <utility>

#include "kernels/registry.hpp"
#include "splash/normalizers/concept.hpp"
#include "splash/patterns/sliding_window.hpp"
#include "splash/tuning/sm90/forward.hpp"

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

/// What the host must know of an instance of these types before it launches one.
template <class Pattern, class Normalizer>
Instance row(Key key, Forward forward) {
  Instance instance{std::move(key), forward};
  if (instance.key.arch == Arch::cpu) return instance;
  const auto tuned = tuning::forward_sm90<Pattern, Normalizer>(instance.key.head_dim, instance.key.block);
  instance.key_tiles = {{tuned.tile.columns}};
  instance.resumes = normalizers::kMerges<Normalizer> && patterns::kIsPart<Pattern>;
  return instance;
}

/// Its sweeps have pieces of 64 or 128 keys as rows, and tiles of as many as columns.
template <class, class>
Instance row(Key key, Backward backward) {
  Instance instance{std::move(key), nullptr, backward};
  if (instance.key.arch != Arch::cpu) instance.key_tiles = {{64, 128}};
  return instance;
}

template <splash::patterns::TablePattern P>
constexpr PatternInfo pattern(std::string_view name, int ints, int tensors) {
  PatternInfo info{name, patterns::type_id<P>(), ints, tensors};
  info.lists = patterns::BlockListPattern<P>;
  if constexpr (splash::patterns::Band<P>) {
    info.band = [](const PatternTerm& term, int64_t (&sides)[2]) {
      const splash::patterns::SlidingWindow window = P::from(term).band();
      sides[0] = window.left == kUnlimited ? -1 : window.left;
      sides[1] = window.right == kUnlimited ? -1 : window.right;
    };
  }
  if constexpr (requires(const PatternTerm& term) { P::block(term); }) info.block = &P::block;
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
  info.merges = splash::normalizers::kMerges<N>;
  info.bias = splash::normalizers::kHasBias<N>;
  static_assert(splash::normalizers::kRowGradientsOf<N> + splash::normalizers::kHasBias<N> <= kMaxParameters,
                "a normalizer has more parameters than NormalizerSpec holds");
  info.parameters = splash::normalizers::kRowGradientsOf<N> + splash::normalizers::kHasBias<N>;
  return info;
}

}  // namespace splash::kernels
