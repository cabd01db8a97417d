// Kernels that go along the rows of tensors, in numbers.
#pragma once

namespace splash::tuning {

/// The backward's first kernel: lanes of a row, which load 16 bytes each, and rows of a group of lanes at a time, so
/// that enough bytes are on their way.
struct RowGroups {
  int threads = 256, rows = 4;

  static constexpr int lanes(int head_dim) { return head_dim <= 32 ? 4 : (head_dim <= 64 ? 8 : 16); }
};
inline constexpr RowGroups kPrepareBackward;

/// Threads that sum the gradient of a parameter of a head.
inline constexpr int kRowGradientThreads = 512;

}  // namespace splash::tuning
