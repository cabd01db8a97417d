// Which kernels of the Hopper backward a call takes. Host code alone, so that a plan can tell it.
#pragma once

#include <algorithm>

#include "splash/core/arguments.hpp"
#include "splash/patterns/transpose.hpp"
#include "splash/tuning/sm90/backward.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

enum class Strategy : int {
  nothing,     ///< no rows, or no keys: gradients are 0
  two_sweeps,  ///< dQ, then dK and dV: the same bits in every run
  by_output,   ///< the same, where one consumer group finds dK and another one dV
  fused,       ///< one sweep, which adds dQ up in no fixed order
  closed,      ///< one sweep over pieces that are problems of their own: the same bits in every run
};

constexpr const char* words(Strategy strategy) {
  switch (strategy) {
    case Strategy::nothing:
      return "zeros";
    case Strategy::two_sweeps:
      return "two sweeps, dQ and then dK and dV";
    case Strategy::by_output:
      return "two sweeps, dQ and then dK and dV apart";
    case Strategy::fused:
      return "one fused sweep";
    case Strategy::closed:
      return "one sweep over closed pieces";
  }
  return "";
}

/// The kernels that an instance has beside those of two sweeps.
struct KernelsBackwardSm90 {
  bool fuses, closes, by_output;
  int fused_columns;  ///< queries of a tile of the fused kernel
  int fused_scores;   ///< kept scores a row from which on it pays
  int closed_rows;    ///< keys of a piece of the closed kernel
};

template <class Pattern, int HeadDim, tuning::Spans Span>
constexpr KernelsBackwardSm90 kernels_backward_sm90() {
  using tuning::Gradients;
  return {.fuses = tuning::kFusesSm90<Pattern, HeadDim, Span>,
          .closes = tuning::kClosesSm90<Pattern, HeadDim>,
          .by_output = tuning::kBackwardSm90<Pattern, HeadDim, Gradients::keys_values, Span>.schedule.by_output,
          .fused_columns = tuning::kBackwardSm90<Pattern, HeadDim, Gradients::all, Span>.tile.columns,
          .fused_scores = tuning::fused_scores(HeadDim),
          .closed_rows = 64 * tuning::kBackwardSm90<Pattern, HeadDim, Gradients::closed, Span>.tile.consumers};
}

/// Of the scores that a row keeps, about the mean over keys or over queries, whichever is less; counted no further than
/// to twice `enough`. Of lists, which only the device can read, as many as there may be.
template <class Pattern>
int64_t scores_a_row(const Pattern& pattern, const AttentionInputs& in, const Layout& layout, int enough) {
  const Positions& at = in.positions;
  const bool packed = at.cu_queries != nullptr;
  const int step = int(layout.residues);
  Frame frame{};
  frame.num_queries = int(packed ? std::min(at.max_queries, in.q.shape[2]) : in.q.shape[2]) / step;
  frame.num_keys = int(packed ? std::min(at.max_keys, in.k.shape[2]) : in.k.shape[2]) / step;
  frame.q_start = packed ? frame.num_keys - frame.num_queries : int(at.q_start - at.k_start) / step;
  if (frame.num_queries == 0 || frame.num_keys == 0) return 0;
  if constexpr (patterns::BlockListPattern<Pattern>) return std::min(frame.num_queries, frame.num_keys);
  const Frame rows = transposed(frame);
  const patterns::KeyMajor<Pattern> view{pattern};
  constexpr int kSamples = tuning::kScoreSample.rows, kWidth = tuning::kScoreSample.columns;
  int64_t sum = 0;
  for (int sample = 0; sample < kSamples; ++sample) {
    const int row = int((2 * sample + 1) * int64_t(frame.num_keys) / (2 * kSamples));
    int64_t found = 0;
    for (int column = 0; found < 2 * enough; column = column / kWidth * kWidth + kWidth) {
      if (column < frame.num_queries) column = view.next_column(rows, row, row + 1, column);
      if (column >= frame.num_queries) break;
      const int begin = column / kWidth * kWidth, end = std::min(begin + kWidth, frame.num_queries);
      const TileState state = view.classify(rows, {row, row + 1, begin, end});
      found += state == TileState::full ? end - begin : (state == TileState::partial ? (end - begin) / 2 : 0);
    }
    sum += found;
  }
  const int64_t mean = sum / kSamples;
  return std::min(mean, mean * frame.num_keys / frame.num_queries);
}

/// Whether every query has all its keys in one piece of so many rows, and has any.
template <class Pattern>
bool closes_pieces(const Pattern& pattern, const AttentionInputs& in, const Layout& layout, int rows) {
  const Positions& at = in.positions;
  if (at.cu_queries || at.lengths || at.kv_lengths || layout.residues > 1) return false;
  if (layout.heads.count > 0 || layout.key_runs.length > 0) return false;
  if (in.q.shape[2] != in.k.shape[2] || at.q_start != at.k_start) return false;
  const Frame frame = make_frame(at, 0, 0, int(in.q.shape[2]), int(in.k.shape[2]));
  if (!patterns::keeps_self(pattern, frame)) return false;
  return in.k.shape[2] <= rows || (at.k_start % rows == 0 && patterns::closes(pattern, rows));
}

/// learns: the normalizer has parameters whose gradients are asked for.
template <class Pattern, int HeadDim, tuning::Spans Span>
Strategy strategy_backward_sm90(const Pattern& pattern, const AttentionInputs& in, const Layout& layout,
                                const BackwardJoin& join, bool deterministic, bool learns) {
  constexpr KernelsBackwardSm90 kKernels = kernels_backward_sm90<Pattern, HeadDim, Span>();
  constexpr Strategy kSweeps = kKernels.by_output ? Strategy::by_output : Strategy::two_sweeps;
  for (int d = 0; d < 3; ++d)
    if (in.q.shape[d] == 0 || in.k.shape[d] == 0) return Strategy::nothing;
  if (learns) return kSweeps;
  if constexpr (kKernels.closes)
    if (!join.adds_queries && !join.adds_keys && closes_pieces(pattern, in, layout, kKernels.closed_rows))
      return Strategy::closed;
  if constexpr (kKernels.fuses) {
    if (deterministic || join.adds_queries || layout.heads.count > 0 || layout.key_runs.length > 0) return kSweeps;
    const Positions& at = in.positions;
    if (at.cu_queries && at.sequences * kKernels.fused_columns > in.q.shape[2]) return kSweeps;
    if (scores_a_row(pattern, in, layout, kKernels.fused_scores) >= kKernels.fused_scores) return Strategy::fused;
  }
  return kSweeps;
}

}  // namespace device
SPLASH_NAMESPACE_END
