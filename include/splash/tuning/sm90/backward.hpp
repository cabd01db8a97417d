// Tile numbers of the Hopper backward: the only place where they stand. Why they are what they are:
// benchmarks/NOTES.md.
#pragma once

namespace splash::tuning {

/// What one kernel of the backward finds: its rows are queries, or keys.
enum class Gradients : int {
  queries,      ///< dQ
  keys_values,  ///< dK and dV
  all,          ///< dK and dV, and what the keys add to dQ in memory
  closed,       ///< dK, dV and dQ, where the queries of a piece have no other keys
};

struct BackwardSm90 {
  int consumers;      ///< consumer warp groups, 64 rows each
  int tile_columns;   ///< columns a step
  int first_stages;   ///< K (or Q) tiles in flight
  int second_stages;  ///< V (or dO) tiles in flight
  int row_buffers;    ///< tiles of rows: 2 where the next one is loaded while one is worked on
  int word_slots;     ///< partial tiles whose mask words exist at a time
  int producer_warps;
  int blocks_per_sm;
  int consumer_registers;  ///< setmaxnreg, multiples of 8; 0: none
  int producer_registers;
  bool turns;          ///< consumer groups take turns
  bool joined;         ///< S of the next tile is asked for before the products of this one have ended
  int teams = 1;       ///< of consumers and producers: each works on pieces of its own
  bool early = false;  ///< a turn ends when S and dP are asked for, not when S is there
  /// The results of a piece leave under the first products of the next one, whose first rows are there by then.
  bool overlaps = false;
  bool by_output = false;  ///< one consumer group finds dV, the other one dK, of the same 64 rows
};

/// Whether there is a kernel for all three gradients.
constexpr bool fuses(int head_dim) { return head_dim == 32 || head_dim == 64 || head_dim == 128; }

/// Kept scores a row from which on it pays: float32 dQ is zeroed, added to and read again.
constexpr int fused_scores(int head_dim) { return head_dim == 128 ? 448 : 192; }

constexpr BackwardSm90 backward_sm90(int head_dim, Gradients pass, bool simple) {
  const int consumer = simple ? 224 : 208, producer = simple ? 56 : 88;
  const bool both = pass == Gradients::keys_values;
  // Pieces have one or two tiles: the next rows load while these are worked on.
  if (pass == Gradients::closed)
    return head_dim == 128 ? BackwardSm90{2, 64, 2, 2, 2, 1, 4, 1, 224, 56, true, false}
                           : BackwardSm90{2, 128, 2, 2, 2, 1, 4, 1, 224, 56, true, false};
  if (pass == Gradients::all)
    return head_dim == 128 ? BackwardSm90{2, 64, 3, 3, 2, 1, 4, 1, 224, 56, true, false, 1, false, true}
                           : BackwardSm90{2, 128, 3, 3, 2, 2, 4, 1, 224, 56, true, false, 1, true, true};
  // Accumulators of 64 rows times D, twice, are too many beside S and dP.
  if (both && head_dim > 128) return {2, 64, 2, 2, 1, 2, 4, 1, 208, 88, false, false, 1, false, false, true};
  // Accumulators of 64 rows leave least where there are two of D 128: tiles are narrower then.
  const int narrow = simple || !both ? 64 : 48;
  switch (head_dim) {
    case 32:
      return {2, both ? 64 : 128, 4, 4, 2, 2, 4, 1, 208, 88, true, true};
    case 64:
      return {2, both ? 64 : 128, 4, 4, 2, 2, 4, 1, 208, 88, true, true};
    case 96:
      return {2, 64, 4, 4, 1, 2, 4, 1, consumer, producer, both, !both};
    case 128:
      return {2, narrow, 4, 4, 1, 2, 4, 1, consumer, producer, both, !both};
    case 192:
      return {2, 64, 2, 2, 1, 2, 4, 1, simple ? 208 : 200, simple ? 88 : 104, false, true};
    default:
      if (simple) return {2, 64, 2, 1, 1, 1, 4, 1, 224, 56, false, true};
      return {2, 32, 3, 2, 1, 2, 4, 1, simple ? 208 : 200, simple ? 88 : 104, false, true};
  }
}

/// Lists of blocks, and short spans: one row block a piece, so that no list is a union of two, and no tile partial. Two
/// pieces at a time share a multiprocessor and hide each other's weights; as teams of a thread block where they need
/// more registers than thread blocks of five warps may have.
constexpr BackwardSm90 backward_blocks_sm90(int head_dim, Gradients pass) {
  const int stages = head_dim > 64 ? 2 : 4;
  if (pass == Gradients::keys_values) return {1, 64, stages, stages, 1, 1, 2, 1, 224, 56, false, false, 2};
  return {1, 64, stages, stages, 1, 1, 1, 2, 0, 0, false, true};
}

}  // namespace splash::tuning
