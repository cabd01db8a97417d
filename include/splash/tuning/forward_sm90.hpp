// Tile numbers of the Hopper forward: the only place where they stand.
#pragma once

namespace splash::tuning {

struct ForwardSm90 {
  int consumers;           ///< consumer warp groups, 64 query rows each
  int tile_keys;           ///< keys a step
  int stages;              ///< K tiles, and V tiles, in flight
  int blocks_per_sm;       ///< blocks of threads a multiprocessor is asked to hold
  int consumer_registers;  ///< setmaxnreg, multiples of 8; (consumers * c + p) * 128 fits 65536 / blocks_per_sm
  int producer_registers;
};

/// block: granularity of the pattern's tile edges (64 or 128), 0 where it has none.
///
/// 64-wide block lists get one row block a thread block, so that no list is a union of two; two such thread blocks
/// share a multiprocessor and hide each other's softmax.
constexpr ForwardSm90 forward_sm90(int head_dim, int block) {
  const bool narrow = head_dim == 64;
  if (block == 64) return {1, 64, narrow ? 4 : 2, 2, 176, 80};
  return {2, 128, narrow ? 4 : 2, 1, 232, 48};
}

}  // namespace splash::tuning
