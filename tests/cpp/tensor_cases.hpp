// Patterns that hold tensors, made from plain arrays: what they keep is a vector of bool, the tensors follow from it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include "splash/core/arguments.hpp"
#include "splash/patterns/big_bird_draw.hpp"

namespace cases {

inline constexpr int kBatch = 2, kHeads = 4;  ///< of all tensors here, so that a wrong stride is seen

/// A contiguous int32 tensor.
struct IntTensor {
  std::vector<int64_t> shape;
  std::vector<int32_t> data;

  explicit IntTensor(std::initializer_list<int64_t> extents, int32_t value = 0) : shape(extents) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    data.assign(count, value);
  }
  splash::TensorView view() {
    splash::TensorView view{data.data(), splash::DType::int32, int(shape.size()), {}, {}};
    int64_t stride = 1;
    for (int d = view.rank - 1; d >= 0; stride *= shape[d--]) view.shape[d] = shape[d], view.stride[d] = stride;
    return view;
  }
  uint32_t& word(int64_t index) { return reinterpret_cast<uint32_t&>(data[index]); }
};

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// A bool for every batch entry, head, row and column.
struct Grid {
  int rows, columns;
  std::vector<bool> bits;

  Grid(int rows, int columns) : rows(rows), columns(columns), bits(std::size_t(kBatch) * kHeads * rows * columns) {}
  std::size_t at(int outer, int row, int column) const { return (std::size_t(outer) * rows + row) * columns + column; }
  bool keep(int batch, int head, int row, int column) const { return bits[at(batch * kHeads + head, row, column)]; }

  /// As bits by rows, or transposed by columns.
  IntTensor lines(bool transposed) const {
    const int lines = transposed ? columns : rows, words = ceil_div(transposed ? rows : columns, 32);
    IntTensor tensor{kBatch, kHeads, lines, words};
    for (int outer = 0; outer < kBatch * kHeads; ++outer)
      for (int row = 0; row < rows; ++row)
        for (int column = 0; column < columns; ++column) {
          const int line = transposed ? column : row, bit = transposed ? row : column;
          if (bits[at(outer, row, column)])
            tensor.word((int64_t(outer) * lines + line) * words + bit / 32) |= 1u << (bit % 32);
        }
    return tensor;
  }
};

/// BigBird's blocks, drawn from its definition alone: sets of candidates, no ranges.
inline bool big_bird_structural(const splash::patterns::BigBirdDraw& d, int row, int column) {
  const bool edge = row < d.first || column < d.first || row >= d.blocks - d.last || column >= d.blocks - d.last;
  return (!d.causal || column <= row) && (edge || 2 * std::abs(row - column) <= d.window);
}

inline Grid big_bird_blocks(const splash::patterns::BigBirdDraw& d) {
  const auto mix = [](uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352d;
    x ^= x >> 15;
    x *= 0x846ca68b;
    return x ^ (x >> 16);
  };
  Grid grid(d.blocks, d.blocks);
  for (int outer = 0; outer < kBatch * kHeads; ++outer)
    for (int row = 0; row < d.blocks; ++row) {
      std::vector<int> candidates, chosen;
      for (int column = 0; column < d.blocks; ++column) {
        if (big_bird_structural(d, row, column))
          grid.bits[grid.at(outer, row, column)] = true;
        else if (!d.causal || column < row)
          candidates.push_back(column);
      }
      if (row < d.first || row >= d.blocks - d.last) continue;
      uint32_t h = mix(uint32_t(d.seed) ^ 0x9e3779b9);
      h = mix(h ^ uint32_t(d.seed >> 32));
      h = mix(h + uint32_t(d.per_head ? outer % kHeads : 0) * 0x85ebca6b);
      h = mix(h + uint32_t(row) * 0xc2b2ae35);
      const int count = int(candidates.size()), draws = std::min(d.random, count);
      for (int t = 0; t < draws; ++t) {
        const int j = count - draws + t;
        const int x = int(uint64_t(mix(h + uint32_t(t + 1) * 0x27d4eb2f)) * uint64_t(j + 1) >> 32);
        chosen.push_back(std::find(chosen.begin(), chosen.end(), x) == chosen.end() ? x : j);
      }
      for (const int x : chosen) grid.bits[grid.at(outer, row, candidates[x])] = true;
    }
  return grid;
}

/// BigBird's tensors for rows and columns that start at these positions; packed, for a sequence that begins at these
/// rows of the tensors, behind kBatch - 1 others. What belongs to nobody holds random bits.
struct Birds {
  struct Side {
    int start = 0, count = 0, before = 0;
    int origin(int block) const { return std::max(start, 0) / block; }
    int blocks(int block) const { return count < 1 ? 0 : std::max(start + count - 1, 0) / block - origin(block) + 1; }
  };

  IntTensor by_row{0}, by_column{0};
  splash::PatternTerm term;

  Birds(const splash::patterns::BigBirdDraw& draw, int block, const Side& rows, const Side& columns,
        bool packed = false) {
    const Grid grid = big_bird_blocks(draw);
    by_row = table(grid, block, rows, columns, false, packed);
    by_column = table(grid, block, columns, rows, true, packed);
    for (const int64_t n :
         {int64_t(block), int64_t(draw.causal), int64_t(draw.first), int64_t(draw.last), int64_t(draw.blocks) * block})
      term.ints[term.num_ints++] = n;
    term.num_tensors = 2;
    term.tensors[0] = by_row.view();
    term.tensors[1] = by_column.view();
  }
  Birds(const Birds&) = delete;

 private:
  static IntTensor table(const Grid& grid, int block, const Side& lines, const Side& bits, bool transposed,
                         bool packed) {
    const int count = lines.blocks(block), words = ceil_div(bits.blocks(block), 32);
    const int begin = packed ? lines.before / block + 2 * (kBatch - 1) : 0, end = begin + count + packed;
    IntTensor tensor = packed ? IntTensor{kHeads, end, words} : IntTensor{kBatch, kHeads, end, words};
    std::mt19937 random(count);
    if (packed)
      for (int32_t& word : tensor.data) word = int32_t(random());
    for (int outer = packed ? (kBatch - 1) * kHeads : 0; outer < kBatch * kHeads; ++outer)
      for (int line = 0; line < count; ++line)
        for (int bit = 0; bit < 32 * words; ++bit) {
          const int l = lines.origin(block) + line, b = bits.origin(block) + bit;
          const bool kept = l < grid.rows && b < grid.columns && bit < bits.blocks(block) &&
                            grid.bits[transposed ? grid.at(outer, b, l) : grid.at(outer, l, b)];
          const int head = packed ? outer % kHeads : outer;
          uint32_t& word = tensor.word((int64_t(head) * end + begin + line) * words + bit / 32);
          word = (word & ~(1u << (bit % 32))) | uint32_t(kept) << (bit % 32);
        }
    return tensor;
  }
};

/// ElementMask's tensors of a grid of scores.
struct Elements {
  static constexpr int kTile = 64;
  Grid tiles;
  IntTensor by_row, by_column, index, words;

  explicit Elements(const Grid& mask)
      : tiles(ceil_div(mask.rows, kTile), ceil_div(mask.columns, kTile)),
        by_row{0},
        by_column{0},
        index{kBatch, kHeads, tiles.rows, tiles.columns},
        words{0, kTile, 2} {
    for (int outer = 0; outer < kBatch * kHeads; ++outer)
      for (int r = 0; r < tiles.rows; ++r)
        for (int c = 0; c < tiles.columns; ++c) add(mask, outer, r, c);
    by_row = tiles.lines(false);
    by_column = tiles.lines(true);
  }
  Elements(const Elements&) = delete;

  splash::PatternTerm term() {
    splash::PatternTerm term;
    term.num_tensors = 4;
    term.tensors[0] = by_row.view();
    term.tensors[1] = by_column.view();
    term.tensors[2] = index.view();
    term.tensors[3] = words.view();
    return term;
  }

 private:
  void add(const Grid& mask, int outer, int r, int c) {
    const int rows = std::min(kTile, mask.rows - r * kTile), columns = std::min(kTile, mask.columns - c * kTile);
    std::vector<int32_t> bits(2 * kTile);
    int kept = 0;
    for (int row = 0; row < rows; ++row)
      for (int column = 0; column < columns; ++column)
        if (mask.bits[mask.at(outer, r * kTile + row, c * kTile + column)]) {
          ++kept;
          reinterpret_cast<uint32_t&>(bits[2 * row + column / 32]) |= 1u << (column % 32);
        }
    int32_t& entry = index.data[tiles.at(outer, r, c)];
    tiles.bits[tiles.at(outer, r, c)] = kept > 0;
    entry = kept == 0 ? -1 : -2;
    if (kept == 0 || kept == rows * columns) return;
    entry = int32_t(words.shape[0]++);
    words.data.insert(words.data.end(), bits.begin(), bits.end());
  }
};

/// IndexCausal's tensors.
struct Indices {
  IntTensor q_idx, k_idx, q_range, k_range;

  Indices(int rows, int columns)
      : q_idx{kBatch, kHeads, rows},
        k_idx{kBatch, kHeads, columns},
        q_range{kBatch, kHeads, ceil_div(rows, 64), 2},
        k_range{kBatch, kHeads, ceil_div(columns, 64), 2} {}
  Indices(const Indices&) = delete;

  /// index(n) for every number of both tensors, then the ranges.
  template <class Index>
  void fill(const Index& index) {
    for (auto [values, ranges] : {std::pair{&q_idx, &q_range}, {&k_idx, &k_range}}) {
      const int extent = int(values->shape[2]), groups = int(ranges->shape[2]);
      for (int outer = 0; outer < kBatch * kHeads; ++outer)
        for (int n = 0; n < extent; ++n) {
          const int32_t value = values->data[std::size_t(outer) * extent + n] = index(n, extent);
          int32_t* range = &ranges->data[(std::size_t(outer) * groups + n / 64) * 2];
          range[0] = n % 64 ? std::min(range[0], value) : value;
          range[1] = n % 64 ? std::max(range[1], value) : value;
        }
    }
  }

  splash::PatternTerm term() {
    splash::PatternTerm term;
    term.num_tensors = 4;
    term.tensors[0] = q_idx.view();
    term.tensors[1] = k_idx.view();
    term.tensors[2] = q_range.view();
    term.tensors[3] = k_range.view();
    return term;
  }
};

}  // namespace cases
