// How a pass is cut into pieces of work, in numbers. Times are in tiles of 128 rows by 128 columns at D 128 (1.6 us on
// an H200). Where they come from: benchmarks/notes.
#pragma once

#include <cstdint>

namespace splash::tuning {

/// Pieces at the end of a pass whose rows are uneven, for each running block of threads, so that all end together. Rows
/// of block lists are of about one length, and the pieces at the end are of all heads, whose keys leave L2.
constexpr int last_pieces(bool block_lists) { return block_lists ? 1 : 4; }

/// Heads of a group share a tile of rows where there are fewer queries than this.
inline constexpr int64_t kPackedQueries = 128;

/// Rows whose columns are split into ranges.
struct Splits {
  int least_tiles = 4;         ///< of columns in a range
  int most = 64;               ///< ranges of a row
  int most_of_last = 16;       ///< in the last round of running blocks
  int global_tiles = 32;       ///< rows that see so many tiles are split where others see few
  int global_range = 16;       ///< into ranges of so many
  double piece = 1.5;          ///< time of a piece beside its tiles
  double range = 2.5;          ///< the same of a range of the last round
  double launch = 4;           ///< of the kernel that merges
  double merged_piece = 0.04;  ///< of the float32 results of a range, at D 128
  double gain = 0.01;          ///< of the time, that a split must save
};
inline constexpr Splits kSplits;

/// Of a class of positions, from which on a part of a pattern pays that runs in classes: fewer cost more tiles than
/// they save.
inline constexpr int64_t kClassKeys = 16;

/// Keys and values of the problems that are worked on at a time stay in half of the 50 MB of L2.
inline constexpr int64_t kSectionBytes = int64_t(24) << 20;

/// Of the row tiles that are not split, so many parts may be the pieces at the end.
inline constexpr int kLastPart = 4;

}  // namespace splash::tuning
