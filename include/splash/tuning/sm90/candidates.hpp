// The kernels that find candidates on Hopper, in numbers. Why they are what they are: benchmarks/notes/entmax.md.
#pragma once

#include "splash/tuning/sm90/forward.hpp"

namespace splash::tuning {

/// Two blocks of threads share a multiprocessor: one forms its cuts, or waits for its next piece, while the other one
/// multiplies. A stage of values is counted, and takes no memory.
constexpr KernelSm90 candidates_sm90(int head_dim, Spans spans) {
  KernelSm90 kernel{.tile = {.consumers = 2, .columns = 128},
                    .pipeline = {.first_stages = 4, .second_stages = 1, .row_buffers = 2, .mask_slots = 2},
                    .warps = {.producers = 1, .blocks_per_sm = 2}};
  const bool narrow = spans == Spans::narrow || spans == Spans::lists64;
  if (spans == Spans::lists64) kernel.tile.consumers = 1;
  if (narrow || head_dim > 96) kernel.tile.columns = 64;
  if (narrow && head_dim <= 64) kernel.pipeline.first_stages = 8;
  if (head_dim == 96) kernel.pipeline.first_stages = 2;
  if (head_dim == 128) kernel.pipeline.row_buffers = 1;
  if (head_dim > 128) {
    kernel.pipeline = {.first_stages = 4, .second_stages = 1, .row_buffers = 1, .mask_slots = 2};
    kernel.warps.blocks_per_sm = 1;
  }
  return kernel;
}

/// Marks of tiles of columns that a kernel keeps: so many, each of one tile or, of long rows, of 2, 4, 8...
inline constexpr int kTileMarks = 512;

}  // namespace splash::tuning
