// The Hopper forward's kernels in numbers. Why they are what they are: benchmarks/notes.
#pragma once

#include "splash/normalizers/concept.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/tuning/sm90/kernel.hpp"
#include "splash/tuning/spans.hpp"

namespace splash::tuning {

/// What decides beside head dimension and spans.
struct ForwardTraits {
  bool simple;  ///< it costs the producers few registers
  bool sweeps;  ///< the normalizer sweeps over the scores first, and keeps more of each row
};

/// 64-wide lists get one row block a thread block, so that no list is a union of two; several such thread blocks share
/// a multiprocessor and hide each other's softmax. Three need 128 registers a thread or less.
constexpr KernelSm90 forward_lists_sm90(int head_dim, bool sweeps) {
  const bool wide = head_dim > 64;
  if (sweeps)
    return {.tile = {.consumers = 1, .columns = 64},
            .pipeline = {.first_stages = wide ? 3 : 4, .second_stages = wide ? 3 : 4},
            .warps = {.producers = 1, .blocks_per_sm = 2},
            .schedule = {.overlap = true}};
  return {.tile = {.consumers = 1, .columns = 64},
          .pipeline = {.first_stages = wide ? 2 : 4, .second_stages = wide ? 1 : 4},
          .warps = {.producers = 1, .blocks_per_sm = 3}};
}

/// Tiles of an odd multiple of 16 keys are a quarter slower.
constexpr KernelSm90 forward_sm90(int head_dim, Spans spans, ForwardTraits traits) {
  if (spans == Spans::lists64) return forward_lists_sm90(head_dim, traits.sweeps);
  // Tiles of 64 keys, and more of them in flight.
  if (spans == Spans::narrow && head_dim <= 128) {
    const int stages = head_dim <= 64 ? 6 : 4;
    return {.tile = {.consumers = 2, .columns = 64},
            .pipeline = {.first_stages = stages, .second_stages = stages, .row_buffers = 2, .mask_slots = 2},
            .registers = {.consumer = traits.simple ? 224 : 216, .producer = traits.simple ? 56 : 72},
            .schedule = {.overlap = true}};
  }
  // Three groups of 64 rows, whose registers suffice while a head is narrow.
  if (head_dim <= 64 && traits.simple && (head_dim <= 32 || !traits.sweeps))
    return {.tile = {.consumers = 3, .columns = 128},
            .pipeline = {.first_stages = 4, .second_stages = 4, .row_buffers = 2, .mask_slots = 2},
            .registers = {.consumer = 152, .producer = 56},
            .schedule = {.pingpong = head_dim <= 32, .overlap = head_dim <= 32}};
  KernelSm90 kernel{.tile = {.consumers = 2, .columns = 128},
                    .pipeline = {.first_stages = 4, .second_stages = 4, .row_buffers = 2, .mask_slots = 2},
                    .registers = {.consumer = traits.simple ? 224 : 216, .producer = traits.simple ? 56 : 72},
                    .schedule = {.pingpong = true, .overlap = true}};
  if (head_dim == 96) kernel.pipeline.first_stages = kernel.pipeline.second_stages = 3;
  if (head_dim == 128) kernel.pipeline.first_stages = kernel.pipeline.second_stages = 2;
  if (head_dim == 192) {
    kernel.tile.columns = 64;
    kernel.pipeline = {.first_stages = 2, .second_stages = 2, .row_buffers = 2, .mask_slots = 1};
  }
  if (head_dim > 192) {
    kernel.tile.columns = 64;
    kernel.pipeline = {.first_stages = 3, .second_stages = 2, .row_buffers = 1, .mask_slots = 1};
  }
  return kernel;
}

template <patterns::Pattern Pattern, normalizers::Normalizer Normalizer>
constexpr KernelSm90 forward_sm90(int head_dim, Spans spans) {
  return forward_sm90(head_dim, spans,
                      {.simple = patterns::SimplePattern<Pattern>, .sweeps = Normalizer::kScoreSweeps});
}

/// Whether the output that a row goes on from is on its way during the first product: registers hold both.
constexpr bool fetches_early(int head_dim) { return head_dim <= 128; }

}  // namespace splash::tuning
