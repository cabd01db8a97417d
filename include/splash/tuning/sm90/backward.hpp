// The Hopper backward's kernels in numbers. Why they are what they are: benchmarks/notes.
#pragma once

#include "splash/patterns/concept.hpp"
#include "splash/tuning/sm90/kernel.hpp"
#include "splash/tuning/spans.hpp"

namespace splash::tuning {

/// What one kernel of the backward finds: its rows are queries, or keys.
enum class Gradients : int {
  queries,      ///< dQ
  keys_values,  ///< dK and dV
  all,          ///< dK and dV, and what the keys add to dQ in memory
  closed,       ///< dK, dV and dQ, where the queries of a piece have no other keys
};

/// Whether there is a kernel for all three gradients.
constexpr bool fuses(int head_dim) { return head_dim == 32 || head_dim == 64 || head_dim == 128; }

/// Kept scores a row from which on it pays: float32 dQ is zeroed, added to and read again.
constexpr int fused_scores(int head_dim) { return head_dim == 128 ? 448 : 192; }

/// dK, dV and dQ at a time: the next rows load while those of a piece are worked on.
constexpr KernelSm90 backward_fused_sm90(int head_dim, bool closed) {
  const bool wide = head_dim == 128;
  const int stages = closed ? 2 : 3;  // pieces of the closed kernel have one or two tiles
  return {.tile = {.consumers = 2, .columns = wide ? 64 : 128},
          .pipeline = {.first_stages = stages,
                       .second_stages = stages,
                       .row_buffers = 2,
                       .mask_slots = closed || wide ? 1 : 2},
          .registers = {.consumer = 224, .producer = 56},
          .schedule = {.pingpong = true, .early = !closed && !wide, .epilogue_overlap = !closed}};
}

/// few_registers: the producers of the pattern manage with few.
constexpr KernelSm90 backward_sm90(int head_dim, Gradients pass, bool few_registers) {
  if (pass == Gradients::closed || pass == Gradients::all)
    return backward_fused_sm90(head_dim, pass == Gradients::closed);
  const bool both = pass == Gradients::keys_values;
  // Accumulators of 64 rows times D, twice, are too many beside S and dP.
  if (both && head_dim > 128)
    return {.tile = {.consumers = 2, .columns = 64},
            .pipeline = {.first_stages = 2, .second_stages = 2, .row_buffers = 1, .mask_slots = 2},
            .registers = {.consumer = 208, .producer = 88},
            .schedule = {.by_output = true}};
  if (head_dim <= 64)
    return {.tile = {.consumers = 2, .columns = both ? 64 : 128},
            .pipeline = {.first_stages = 4, .second_stages = 4, .row_buffers = 2, .mask_slots = 2},
            .registers = {.consumer = 208, .producer = 88},
            .schedule = {.pingpong = true, .overlap = true}};
  // Accumulators of 64 rows leave least where there are two of D 128: tiles are narrower then.
  if (head_dim <= 128)
    return {.tile = {.consumers = 2, .columns = head_dim < 128 || few_registers || !both ? 64 : 48},
            .pipeline = {.first_stages = 4, .second_stages = 4, .row_buffers = 1, .mask_slots = 2},
            .registers = {.consumer = few_registers ? 224 : 208, .producer = few_registers ? 56 : 88},
            .schedule = {.pingpong = both, .overlap = !both}};
  if (head_dim <= 192)
    return {.tile = {.consumers = 2, .columns = 64},
            .pipeline = {.first_stages = 2, .second_stages = 2, .row_buffers = 1, .mask_slots = 2},
            .registers = {.consumer = few_registers ? 208 : 200, .producer = few_registers ? 88 : 104},
            .schedule = {.overlap = true}};
  if (few_registers)
    return {.tile = {.consumers = 2, .columns = 64},
            .pipeline = {.first_stages = 2, .second_stages = 1, .row_buffers = 1, .mask_slots = 1},
            .registers = {.consumer = 224, .producer = 56},
            .schedule = {.overlap = true}};
  return {.tile = {.consumers = 2, .columns = 32},
          .pipeline = {.first_stages = 3, .second_stages = 2, .row_buffers = 1, .mask_slots = 2},
          .registers = {.consumer = 200, .producer = 104},
          .schedule = {.overlap = true}};
}

/// Lists of narrow blocks, and narrow spans: one row block a piece, so that no list is a union of two, and no tile
/// partial. Two pieces at a time share a multiprocessor and hide each other's weights; as teams of a thread block where
/// they need more registers than thread blocks of five warps may have.
constexpr KernelSm90 backward_blocks_sm90(int head_dim, Gradients pass) {
  const int stages = head_dim > 64 ? 2 : 4;
  const PipelineSm90 pipeline{.first_stages = stages, .second_stages = stages};
  if (pass == Gradients::keys_values)
    return {.tile = {.consumers = 1, .columns = 64},
            .pipeline = pipeline,
            .warps = {.producers = 2, .teams = 2},
            .registers = {.consumer = 224, .producer = 56}};
  return {.tile = {.consumers = 1, .columns = 64},
          .pipeline = pipeline,
          .warps = {.producers = 1, .blocks_per_sm = 2},
          .schedule = {.overlap = true}};
}

/// Whether the producers manage with few registers. Those of lists of wide blocks do by a walk in batches, where dK and
/// dV leave them no more. Such blocks fill the rows of a piece: there is no union of two lists, and no partial tile.
template <patterns::Pattern Pattern, Gradients Pass, Spans Span>
inline constexpr bool kFewRegisters =
    patterns::SimplePattern<Pattern> || (Span == Spans::lists128 && Pass != Gradients::queries);

template <patterns::Pattern Pattern, int HeadDim, Gradients Pass, Spans Span>
inline constexpr KernelSm90 kBackwardSm90 =
    (Span == Spans::narrow || Span == Spans::lists64) && Pass != Gradients::closed
        ? backward_blocks_sm90(HeadDim, Pass)
        : backward_sm90(HeadDim, Pass, kFewRegisters<Pattern, Pass, Span>);

/// Which kernels an instance has beside those of dQ and of dK and dV.
template <patterns::Pattern Pattern, int HeadDim, Spans Span>
inline constexpr bool kFusesSm90 =
    fuses(HeadDim) && (Span == Spans::any ? patterns::SimplePattern<Pattern> : Span == Spans::lists128);
template <patterns::Pattern Pattern, int HeadDim>
inline constexpr bool kClosesSm90 = fuses(HeadDim) && patterns::SimplePattern<Pattern>;

/// How the scores that a row keeps are estimated: from so many rows, in ranges of so many columns.
struct SampleSm90 {
  int rows = 4, columns = 128;
};
inline constexpr SampleSm90 kScoreSample;

}  // namespace splash::tuning
