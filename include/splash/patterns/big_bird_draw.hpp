// Which blocks BigBird keeps: neighbours, the first and last rows and columns, and a random draw for each row, the same
// on every device. After Zaheer et al., "Big Bird: Transformers for Longer Sequences", 2020.
#pragma once

#include "splash/patterns/bits.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// The words from which the rows of heads draw, by a hash of their places.
struct DrawHash {
  uint64_t seed = 0;

  SPLASH_HD uint32_t of_row(int head, int row) const {
    uint32_t hash = mix(uint32_t(seed) ^ 0x9e3779b9u);
    hash = mix(hash ^ uint32_t(seed >> 32));
    hash = mix(hash + uint32_t(head) * 0x85ebca6bu);
    return mix(hash + uint32_t(row) * 0xc2b2ae35u);
  }

  /// Draw `n` of a row, below `range`.
  static SPLASH_HD int draw(uint32_t of_row, int n, int range) {
    return int(uint64_t(mix(of_row + uint32_t(n + 1) * 0x27d4eb2fu)) * uint32_t(range) >> 32);
  }

 private:
  /// A bijection of 32 bits in which every input bit reaches every output bit.
  static SPLASH_HD uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
  }
};

struct BigBirdDraw {
  int blocks = 0;  ///< of the whole sequence
  int window = 3;  ///< neighbouring blocks, odd, the own one in the middle
  int first = 1, last = 1;
  int random = 3;  ///< further blocks of a row, or as many as there are
  uint64_t seed = 0;
  bool per_head = false;  ///< a draw for each head, or the same one for all
  bool causal = false;    ///< blocks after the row's own are not kept

  /// Kept without a draw.
  SPLASH_HD bool structural(int row, int column) const {
    if (causal && column > row) return false;
    return keeps_all(row) || column < first || column >= blocks - last ||
           (column >= row - window / 2 && column <= row + window / 2);
  }

  /// Sets the bits of the columns that a row keeps in ceil(blocks / 32) words.
  SPLASH_HD void fill(int head, int row, uint32_t* words) const {
    SPLASH_NO_UNROLL
    for (int n = 0; n < (blocks + 31) / 32; ++n) words[n] = 0;
    SPLASH_NO_UNROLL
    for (int column = 0; column < blocks; ++column)
      if (structural(row, column)) set(words, column);
    if (keeps_all(row)) return;
    // The other columns lie before the neighbours, and after them where later blocks count.
    const int half = window / 2, end = blocks - last;
    const int before = most(least(row - half, end) - first, 0), next = most(row + half + 1, first);
    const int candidates = before + (causal ? 0 : most(end - next, 0)), draws = least(random, candidates);
    const uint32_t of_row = DrawHash{seed}.of_row(per_head ? head : 0, row);
    // Floyd's sampling without replacement: a candidate that is taken already stands for the last one so far.
    SPLASH_NO_UNROLL
    for (int t = 0; t < draws; ++t) {
      const int range = candidates - draws + t;
      const int drawn = DrawHash::draw(of_row, t, range + 1);
      const auto column = [&](int candidate) {
        return candidate < before ? first + candidate : next + candidate - before;
      };
      set(words, has(words, column(drawn)) ? column(range) : column(drawn));
    }
  }

 private:
  SPLASH_HD bool keeps_all(int row) const { return row < first || row >= blocks - last; }

  static SPLASH_HD void set(uint32_t* words, int column) { words[column >> 5] |= 1u << (column & 31); }
  static SPLASH_HD bool has(const uint32_t* words, int column) { return words[column >> 5] >> (column & 31) & 1u; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
