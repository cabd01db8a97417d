// Lines of blocks as bits, for patterns that keep some blocks of a grid: by rows, or by columns for the other
// traversal.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/patterns/per_head.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Rows or columns of a block, and how bits of blocks become bits of columns. A product with `spread`, which has a bit
/// every size - 1, puts bit b at size * b, among others that `starts` clears. Up to `together` bits do not get into
/// each other's way, and blocks of kSpread or more have no more than that in a word.
struct BlockSize : FastDivide {
  static constexpr int kSpread = 9;

  uint64_t spread, starts;
  uint32_t together;

  SPLASH_HD constexpr BlockSize(int size)
      : FastDivide(size),
        spread(repeated_bits(1, most(size - 1, 1))),
        starts(repeated_bits(1, size)),
        together(uint32_t(bits_to((63 + size) / size - 1))) {}

  /// Bits of columns, the first of which is the first one of block 0; blocks of at least kSpread.
  SPLASH_HD uint64_t columns(uint32_t blocks) const {
    const uint64_t first = (blocks & together) * spread & starts;
    return shifted_up(first, divisor) - first;
  }
};

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
    const uint32_t* bits = line_of(frame, first_line);
    SPLASH_NO_UNROLL
    for (int line = first_line; line <= last_line; ++line, bits += line_words()) {
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

  /// Of blocks 32 * word to 32 * word + 31.
  SPLASH_HD TileBits tile_bits(const Frame& frame, int first_line, int last_line, int word) const {
    if (32 * word >= blocks) return {0, 0};
    uint32_t any = 0, all = word_between(0, blocks - 1 - 32 * word);
    const uint32_t* bits = line_of(frame, first_line) + word;
    SPLASH_NO_UNROLL
    for (int line = first_line; line <= last_line; ++line, bits += line_words()) any |= *bits, all &= *bits;
    return {any & word_between(0, blocks - 1 - 32 * word), all};
  }

  /// The first block from `block` on that some of the lines keep; kEnd where there is none.
  SPLASH_HD int next(const Frame& frame, int first_line, int last_line, int block) const {
    const uint32_t* lines = line_of(frame, first_line);
    SPLASH_NO_UNROLL
    for (int n = block >> 5; 32 * n < blocks; ++n) {
      uint32_t word = 0;
      const uint32_t* bits = lines + n;
      SPLASH_NO_UNROLL
      for (int line = first_line; line <= last_line; ++line, bits += line_words()) word |= *bits;
      word &= word_between(block - 32 * n, blocks - 1 - 32 * n);
      if (word) return 32 * n + lowest_bit(word);
    }
    return kEnd;
  }

  /// The same by indices: the first one from `from` on that lies in such a block.
  SPLASH_HD int next(const Frame& frame, int first_line, int last_line, const FastDivide& size, int from) const {
    const int block = next(frame, first_line, last_line, size.quotient(from));
    return block == kEnd ? kEnd : most(block * size.divisor, from);
  }

  /// Bit c: whether the block of index + c is kept; blocks of at least BlockSize::kSpread. Past the last block the bits
  /// mean nothing; index >= 0.
  SPLASH_HD uint64_t bits(const Frame& frame, int line, const BlockSize& size, int index) const {
    const int block = size.quotient(index), next = (block + 1) * size.divisor - index;
    const uint32_t kept = blocks_from(line_of(frame, line), block);
    return (kept & 1 ? bits_to(next - 1) : 0) | shifted_up(size.columns(kept >> 1), next);
  }

  /// The same of blocks of any size, one after the other.
  SPLASH_HD uint64_t bits_of_small(const Frame& frame, int line, const BlockSize& size, int index) const {
    const uint32_t* words = line_of(frame, line);
    uint64_t kept = 0;
    int block = size.quotient(index);
    SPLASH_NO_UNROLL
    for (int first = block * size.divisor - index; first < 64; ++block, first += size.divisor)
      if (blocks_from(words, block) & 1) kept |= bits_between(first, first + size.divisor - 1);
    return kept;
  }

 private:
  /// Bit b: that of block + b; within the line's words, whatever the block.
  SPLASH_HD uint32_t blocks_from(const uint32_t* words, int block) const {
    const int last = line_words() - 1, n = least(block >> 5, last);
    return funnel(words[n], words[least(n + 1, last)], block & 31);
  }
  SPLASH_HD int line_words() const { return (blocks + 31) >> 5; }
  SPLASH_HD const uint32_t* line_of(const Frame& frame, int line) const {
    return reinterpret_cast<const uint32_t*>(words.at(frame)) + int64_t(line) * line_words();
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
