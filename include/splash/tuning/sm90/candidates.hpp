// The kernels that find candidates on Hopper, in numbers. Why they are what they are: benchmarks/notes/entmax.md.
#pragma once

#include "splash/tuning/sm90/forward.hpp"

namespace splash::tuning {

/// Q K^T alone, with an observer of as many instructions: three consumer groups hide it best. The value stage is there
/// since the producers have one; nothing is loaded into it.
constexpr KernelSm90 candidates_sm90(int head_dim, int block, ForwardTraits traits) {
  if (traits.lists && block == 64) {
    KernelSm90 kernel = forward_lists_sm90(head_dim, true);
    kernel.pipeline.second_stages = 1;
    return kernel;
  }
  const RegistersSm90 registers = {.consumer = traits.simple ? 152 : 144, .producer = traits.simple ? 56 : 80};
  KernelSm90 kernel{.tile = {.consumers = 3, .columns = 128},
                    .pipeline = {.first_stages = 6, .second_stages = 1, .row_buffers = 2, .mask_slots = 2},
                    .registers = registers};
  if (head_dim == 96) kernel.pipeline.first_stages = 4;
  if (head_dim == 128) kernel.pipeline.first_stages = 4, kernel.pipeline.row_buffers = 1;
  if (head_dim > 128) {
    kernel.tile.columns = 64;
    kernel.pipeline.first_stages = head_dim > 192 ? 2 : 4;
    kernel.pipeline.row_buffers = 1;
  }
  if (block == 64 && head_dim <= 128) {
    kernel.tile.columns = 64;
    kernel.pipeline.first_stages = head_dim <= 64 ? 8 : 6;
  }
  return kernel;
}

template <patterns::Pattern Pattern, normalizers::Normalizer Normalizer>
constexpr KernelSm90 candidates_sm90(int head_dim, int block) {
  return candidates_sm90(head_dim, block,
                         {.lists = patterns::BlockListPattern<Pattern>,
                          .simple = patterns::SimplePattern<Pattern>,
                          .sweeps = true});
}

/// Marks of tiles of columns that a kernel keeps: so many, each of one tile or, of long rows, of 2, 4, 8...
inline constexpr int kTileMarks = 512;

}  // namespace splash::tuning
