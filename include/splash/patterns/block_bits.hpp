// Lines of blocks as bits, for patterns that keep some blocks of a grid: by rows, or by columns for the other
// traversal.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/patterns/per_head.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Bit w of word n of line l: whether blocks l of one axis and 32 n + w of the other are kept together.
struct BlockBits {
  PerHead words;  ///< (B|1, Hq|1, lines, ceil(blocks / 32))
  int blocks = 0;

  /// The bits of a tensor, where that of the other axis has one line a block.
  static SPLASH_HD BlockBits of(const TensorView& view, const TensorView& other) {
    return {PerHead::of(view), int(other.shape[2])};
  }

  SPLASH_HD bool keep(const Frame& frame, int line, int block) const {
    return line_of(frame, line)[block >> 5] >> (block & 31) & 1u;
  }

  /// Of the lines and blocks given, ends included.
  SPLASH_HD TileState classify(const Frame& frame, int first_line, int last_line, int first, int last) const {
    bool any = false, all = true;
    SPLASH_NO_UNROLL
    for (int line = first_line; line <= last_line; ++line) {
      const uint32_t* bits = line_of(frame, line);
      SPLASH_NO_UNROLL
      for (int n = first >> 5; n <= last >> 5; ++n) {
        const uint32_t wanted = word_between(first - 32 * n, last - 32 * n);
        const uint32_t kept = bits[n] & wanted;
        any |= kept != 0;
        all &= kept == wanted;
      }
    }
    return all ? TileState::full : (any ? TileState::partial : TileState::empty);
  }

  /// The first index from `from` on that lies in a block kept by some of the lines; kEnd where there is none.
  SPLASH_HD int next(const Frame& frame, int first_line, int last_line, int size, int from) const {
    const int start = from / size;
    SPLASH_NO_UNROLL
    for (int n = start >> 5; 32 * n < blocks; ++n) {
      uint32_t word = 0;
      SPLASH_NO_UNROLL
      for (int line = first_line; line <= last_line; ++line) word |= line_of(frame, line)[n];
      word &= word_between(start - 32 * n, blocks - 1 - 32 * n);
      if (word) return most((32 * n + lowest_bit(word)) * size, from);
    }
    return kEnd;
  }

  /// Bit c: whether the block of index + c is kept.
  SPLASH_HD uint64_t bits(const Frame& frame, int line, int size, int index) const {
    uint64_t kept = 0;
    const uint32_t* words = line_of(frame, line);
    int block = most(index, 0) / size;
    SPLASH_NO_UNROLL
    for (int first = block * size - index; first < 64 && block < blocks; ++block, first += size)
      if (words[block >> 5] >> (block & 31) & 1u) kept |= bits_between(first, first + size - 1);
    return kept;
  }

 private:
  SPLASH_HD const uint32_t* line_of(const Frame& frame, int line) const {
    return reinterpret_cast<const uint32_t*>(words.at(frame)) + int64_t(line) * ((blocks + 31) / 32);
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
