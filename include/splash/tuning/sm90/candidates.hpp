// The kernels that find candidates on Hopper, in numbers. Why they are what they are: benchmarks/notes/entmax.md.
#pragma once

#include "splash/tuning/sm90/forward.hpp"

namespace splash::tuning {

/// Three consumer groups hide what is done with scores behind each other's products. Two blocks of threads of two
/// groups have 96 registers a thread, for half as many buckets: no faster, and more rows have too many candidates. A
/// stage of values is counted, and takes no memory.
constexpr KernelSm90 candidates_sm90(int head_dim, Spans spans) {
  const bool narrow = spans == Spans::narrow || spans == Spans::lists64;
  if (spans == Spans::lists64)
    return {.tile = {.consumers = 1, .columns = 64},
            .pipeline = {.first_stages = 4, .second_stages = 1, .row_buffers = head_dim <= 64 ? 2 : 1},
            .warps = {.producers = 1, .blocks_per_sm = 2}};
  KernelSm90 kernel{.tile = {.consumers = 3, .columns = narrow || head_dim > 128 ? 64 : 128},
                    .pipeline = {.first_stages = 6, .second_stages = 1, .row_buffers = 2, .mask_slots = 2},
                    .registers = {.consumer = 144, .producer = 80}};
  if (head_dim > 64) kernel.pipeline.first_stages = 4;
  if (head_dim > 96) kernel.pipeline.row_buffers = 1;
  if (head_dim > 192) kernel.pipeline.first_stages = 3;
  return kernel;
}

/// Marks of tiles of columns that a kernel keeps: so many, each of one tile or, of long rows, of 2, 4, 8...
inline constexpr int kTileMarks = 512;

}  // namespace splash::tuning
