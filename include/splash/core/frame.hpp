// The problem of one (batch, head): how many rows and columns are real, where they stand in the sequence, and where
// they lie in the tensors.
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
  int first_row = 0;    ///< of the tensors: that of row 0; not 0 in packed sequences only
  int first_column = 0;

  SPLASH_HD constexpr int i(int row) const { return row + q_start; }
  SPLASH_HD constexpr int j(int column) const { return column + k_start; }
};

/// The same problem with keys for rows and queries for columns.
SPLASH_HD constexpr Frame transposed(const Frame& frame) {
  return {frame.batch,   frame.head,    frame.num_keys,     frame.num_queries,
          frame.k_start, frame.q_start, frame.first_column, frame.first_row};
}

/// A rectangle of scores, ends excluded. Never empty, never outside the frame.
struct Box {
  int row_begin, row_end, column_begin, column_end;
};

enum class TileState : int { empty = 0, partial = 1, full = 2 };

SPLASH_HD constexpr int clamp_to(int value, int low, int high) {
  return value < low ? low : (value > high ? high : value);
}

/// Of batch entry `batch`. Lengths come from device memory unchecked, so they are clamped to what the tensors hold:
/// num_queries and num_keys.
SPLASH_HD Frame make_frame(const Positions& positions, int batch, int head, int num_queries, int num_keys) {
  Frame frame{batch, head, num_queries, num_keys, int(positions.q_start), int(positions.k_start)};
  if (positions.lengths) {
    const int length = clamp_to(positions.lengths[batch], 0, kMaxPosition + 1);
    frame.num_queries = clamp_to(length - frame.q_start, 0, num_queries);
    frame.num_keys = clamp_to(length - frame.k_start, 0, num_keys);
  }
  if (positions.kv_lengths) {
    frame.num_keys = clamp_to(positions.kv_lengths[batch], 0, num_keys);
    frame.q_start = frame.k_start + frame.num_keys - num_queries;
  }
  return frame;
}

/// Of packed sequence `sequence` in tensors of num_queries rows and num_keys columns, which its ends are clamped to.
SPLASH_HD Frame make_packed_frame(const Positions& positions, int sequence, int head, int num_queries, int num_keys) {
  Frame frame{sequence, head, 0, 0, 0, int(positions.k_start)};
  frame.first_row = clamp_to(positions.cu_queries[sequence], 0, num_queries);
  frame.first_column = clamp_to(positions.cu_keys[sequence], 0, num_keys);
  const int rows = clamp_to(positions.cu_queries[sequence + 1], frame.first_row, num_queries) - frame.first_row;
  const int columns = clamp_to(positions.cu_keys[sequence + 1], frame.first_column, num_keys) - frame.first_column;
  frame.num_queries = clamp_to(rows, 0, int(positions.max_queries));
  frame.num_keys = clamp_to(columns, 0, int(positions.max_keys));
  frame.q_start = frame.k_start + frame.num_keys - frame.num_queries;
  return frame;
}

SPLASH_NAMESPACE_END
