// The problem of one (batch, head): how many rows and columns are real, and where they stand in the sequence.
#pragma once

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN

inline constexpr int kEnd = 0x7fffffff;             ///< "no further row or column"
inline constexpr int kUnlimited = 1 << 30;          ///< window sides and ends that do not limit
inline constexpr int kMaxPosition = (1 << 29) - 1;  ///< |position| stays below this, so sums of two cannot overflow

struct Frame {
  int batch = 0;
  int head = 0;         ///< query head
  int num_queries = 0;  ///< rows that are not padding
  int num_keys = 0;     ///< columns that are not padding
  int q_start = 0;      ///< position of row 0
  int k_start = 0;      ///< position of column 0

  SPLASH_HD constexpr int i(int row) const { return row + q_start; }
  SPLASH_HD constexpr int j(int column) const { return column + k_start; }
};

/// A rectangle of scores, ends excluded. Never empty, never outside the frame.
struct Box {
  int row_begin, row_end, column_begin, column_end;
};

enum class TileState : int { empty = 0, partial = 1, full = 2 };

SPLASH_HD constexpr int clamp_to(int value, int low, int high) {
  return value < low ? low : (value > high ? high : value);
}

/// Lengths come from device memory unchecked, so they are clamped to what the tensors hold.
SPLASH_HD Frame make_frame(const Positions& positions, int batch, int head, int num_queries, int num_keys) {
  Frame frame{batch, head, num_queries, num_keys, int(positions.q_start), int(positions.k_start)};
  if (positions.lengths) {
    const int length = positions.lengths[batch];
    frame.num_queries = clamp_to(length - frame.q_start, 0, num_queries);
    frame.num_keys = clamp_to(length - frame.k_start, 0, num_keys);
  }
  if (positions.kv_lengths) {
    frame.num_keys = clamp_to(positions.kv_lengths[batch], 0, num_keys);
    frame.q_start = frame.k_start + frame.num_keys - num_queries;
  }
  return frame;
}

SPLASH_NAMESPACE_END
