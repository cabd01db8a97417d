// Tile numbers of the Hopper forward: the only place where they stand.
#pragma once

namespace splash::tuning {

struct ForwardSm90 {
  int consumers;           ///< consumer warp groups, 64 query rows each
  int tile_keys;           ///< keys a step
  int stages;              ///< K tiles, and V tiles, in flight
  int blocks_per_sm;       ///< blocks of threads a multiprocessor is asked to hold
  int consumer_registers;  ///< setmaxnreg, multiples of 8; their sum over the warp groups is bound by the launch
  int producer_registers;
};

/// block: granularity of the pattern's tile edges (64 or 128), 0 where it has none.
/// unrolled_mask: the consumers inline the pattern's keep() once a score, which costs them registers; a pattern so
/// cheap needs few in the producer. 64-wide block lists get one row block a thread block, so that no list is a union of
/// two; two such thread blocks share a multiprocessor and hide each other's softmax.
constexpr ForwardSm90 forward_sm90(int head_dim, int block, bool unrolled_mask) {
  if (block == 64) return {1, 64, head_dim == 64 ? 4 : 2, 2, 176, 80};
  const int consumer = unrolled_mask ? 232 : 224, producer = unrolled_mask ? 40 : 56;
  return {2, 128, head_dim == 64 ? 4 : 2, 1, consumer, producer};
}

}  // namespace splash::tuning
