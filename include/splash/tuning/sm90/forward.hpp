// Tile numbers of the Hopper forward: the only place where they stand. Why they are what they are: benchmarks/NOTES.md.
#pragma once

#include "splash/normalizers/concept.hpp"
#include "splash/patterns/concept.hpp"

namespace splash::tuning {

struct ForwardSm90 {
  int consumers;           ///< consumer warp groups, 64 query rows each
  int tile_columns;        ///< keys a step
  int first_stages;        ///< K tiles in flight
  int second_stages;       ///< V tiles in flight
  int row_buffers;         ///< Q tiles: 2 where the next one is loaded while one is worked on
  int word_slots;          ///< partial tiles whose mask words exist at a time
  int producer_warps;      ///< 4, or 1 where a thread block has one consumer group
  int blocks_per_sm;       ///< blocks of threads a multiprocessor is asked to hold
  int consumer_registers;  ///< setmaxnreg, multiples of 8; their sum over the warp groups is bound by the launch. 0:
                           ///< none
  int producer_registers;
  bool turns;          ///< consumer groups take turns to issue their products
  bool joined = true;  ///< Q K^T of a tile runs beside W V of the tile before it, which takes registers for both
  int teams = 1;       ///< of consumers and producers
};

/// What decides beside head dimension and block size.
struct ForwardTraits {
  bool lists;   ///< the pattern is lists of blocks
  bool simple;  ///< it costs the producers few registers
  bool sweeps;  ///< the normalizer sweeps over the scores first, and keeps more of each row
};

/// block: granularity of the pattern's tile edges where an instance is made for one (64 or 128), else 0. Tiles of an
/// odd multiple of 16 keys are a quarter slower.
constexpr ForwardSm90 forward_sm90(int head_dim, int block, ForwardTraits traits) {
  const int consumer = traits.simple ? 224 : 216, producer = traits.simple ? 56 : 72;
  // 64-wide lists get one row block a thread block, so that no list is a union of two; several such thread blocks
  // share a multiprocessor and hide each other's softmax. Three need 128 registers a thread or less.
  if (traits.lists && block == 64) {
    if (traits.sweeps) return {1, 64, head_dim > 64 ? 3 : 4, head_dim > 64 ? 3 : 4, 1, 1, 1, 2, 0, 0, false};
    return {1, 64, head_dim > 64 ? 2 : 4, head_dim > 64 ? 1 : 4, 1, 1, 1, 3, 0, 0, false, false};
  }
  const bool narrow = block == 64;
  switch (head_dim) {
    case 32:
      if (narrow) return {2, 64, 6, 6, 2, 2, 4, 1, consumer, producer, false};
      if (traits.simple) return {3, 128, 4, 4, 2, 2, 4, 1, 152, 56, true};
      return {2, 128, 4, 4, 2, 2, 4, 1, consumer, producer, true};
    case 64:
      if (narrow) return {2, 64, 6, 6, 2, 2, 4, 1, consumer, producer, false};
      if (traits.simple && !traits.sweeps) return {3, 128, 4, 4, 2, 2, 4, 1, 152, 56, false, false};
      return {2, 128, 4, 4, 2, 2, 4, 1, consumer, producer, true};
    case 96:
      if (narrow) return {2, 64, 4, 4, 2, 2, 4, 1, consumer, producer, false};
      return {2, 128, 3, 3, 2, 2, 4, 1, consumer, producer, true};
    case 128:
      if (narrow) return {2, 64, 4, 4, 2, 2, 4, 1, consumer, producer, false};
      return {2, 128, 2, 2, 2, 2, 4, 1, consumer, producer, true};
    case 192:
      return {2, 64, 2, 2, 2, 1, 4, 1, consumer, producer, true};
    default:
      return {2, 64, 3, 2, 1, 1, 4, 1, consumer, producer, true};
  }
}

template <patterns::Pattern Pattern, normalizers::Normalizer Normalizer>
constexpr ForwardSm90 forward_sm90(int head_dim, int block) {
  return forward_sm90(head_dim, block,
                      {.lists = patterns::BlockListPattern<Pattern>,
                       .simple = patterns::SimplePattern<Pattern>,
                       .sweeps = Normalizer::kScoreSweeps});
}

}  // namespace splash::tuning
