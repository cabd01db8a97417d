// Frames and block masks for the brute-force test of the patterns.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "splash/core/frame.hpp"
#include "splash/patterns/block_mask.hpp"

namespace cases {

struct FrameCase {
  int rows, columns;  ///< of the tensors; the frame may hold fewer
  splash::Frame frame;
};

/// Square, short, long, shifted, far away, right-padded and cached problems, most of them off every block size.
inline std::vector<FrameCase> frames() {
  std::vector<FrameCase> all;
  const auto add = [&](int rows, int columns, const splash::Positions& positions) {
    all.push_back({rows, columns, splash::make_frame(positions, 1, 2, rows, columns)});
  };
  const int sizes[][2] = {{1, 1}, {1, 130}, {17, 17}, {64, 64}, {100, 37}, {130, 200}, {200, 130}, {257, 257}};
  for (const auto& [rows, columns] : sizes) {
    add(rows, columns, {columns - rows, 0, nullptr, nullptr});
    add(rows, columns, {40, 25, nullptr, nullptr});
    add(rows, columns, {-30, 3, nullptr, nullptr});
    add(rows, columns, {3, -90, nullptr, nullptr});
    add(rows, columns, {1000, 0, nullptr, nullptr});
    constexpr int kFar = splash::kMaxPosition - 1000;
    add(rows, columns, {kFar, -kFar, nullptr, nullptr});
    add(rows, columns, {-kFar, kFar, nullptr, nullptr});
    add(rows, columns, {kFar + 30, kFar, nullptr, nullptr});
    static const int32_t few[] = {0, 9}, most[] = {0, 111}, none[] = {0, 0}, more[] = {0, 100000}, negative[] = {0, -5};
    for (const int32_t* lengths : {few, most, none, more, negative}) {
      add(rows, columns, {columns - rows, 0, nullptr, lengths});
      if (rows == columns) add(rows, columns, {0, 0, lengths, nullptr});
    }
  }
  return all;
}

/// A BlockMask with its bits, batch 2 and heads 4 wide so that a wrong stride is seen.
class Mask {
 public:
  Mask(int rows, int columns, int block_rows, int block_columns, double density, unsigned seed) {
    const int lines[2] = {(rows + block_rows - 1) / block_rows, (columns + block_columns - 1) / block_columns};
    std::mt19937 random(seed);
    std::bernoulli_distribution keep(density);
    constexpr int kBatch = 2, kHeads = 4;
    for (int n = 0; n < 2; ++n) {
      const int words = (lines[1 - n] + 31) / 32;
      bits_[n].assign(std::size_t(kBatch) * kHeads * lines[n] * words, 0);
      splash::TensorView& view = term_.tensors[n];
      view = {bits_[n].data(), splash::DType::int32, 4, {kBatch, kHeads, lines[n], words}, {}};
      view.stride[3] = 1;
      for (int d = 2; d >= 0; --d) view.stride[d] = view.stride[d + 1] * view.shape[d + 1];
    }
    for (int outer = 0; outer < kBatch * kHeads; ++outer)
      for (int row = 0; row < lines[0]; ++row)
        for (int column = 0; column < lines[1]; ++column)
          if (keep(random)) set(0, lines, outer, row, column), set(1, lines, outer, column, row);
    term_.num_ints = term_.num_tensors = 2;
    term_.ints[0] = block_rows;
    term_.ints[1] = block_columns;
  }
  Mask(const Mask&) = delete;

  splash::PatternTerm term() const { return term_; }
  splash::patterns::BlockMask pattern() const { return splash::patterns::BlockMask::from(term_); }

 private:
  void set(int n, const int (&lines)[2], int outer, int line, int bit) {
    const int words = (lines[1 - n] + 31) / 32;
    bits_[n][(std::size_t(outer) * lines[n] + line) * words + bit / 32] |= 1u << (bit % 32);
  }

  std::vector<uint32_t> bits_[2];
  splash::PatternTerm term_;
};

}  // namespace cases
