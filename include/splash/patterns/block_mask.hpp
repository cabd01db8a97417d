// BlockMask(mask, block): mask[b, h, row // block_rows, column // block_columns], in rows and columns of these tensors.
#pragma once

#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// The mask as bits, once by rows and once by columns, so that both traversals step with a bit scan.
/// Two int32 tensors: by_row (B|1, H|1, block rows, words) and by_column (B|1, H|1, block columns, words); bit w of
/// word n stands for block 32 n + w of the other axis.
struct BlockMask {
  struct Bits {
    const uint32_t* words = nullptr;
    int64_t stride_batch = 0, stride_head = 0;
    int lines = 0;  ///< block rows (by_row) or block columns (by_column)
    int words_a_line = 0;

    SPLASH_HD const uint32_t* line(const Frame& frame, int index) const {
      return words + frame.batch * stride_batch + frame.head * stride_head + int64_t(index) * words_a_line;
    }
  };

  Bits by_row, by_column;
  int block_rows = 64, block_columns = 64;

  /// ints: block_rows, block_columns. tensors: by_row, by_column.
  static SPLASH_HD BlockMask from(const PatternTerm& term) {
    return {bits(term.tensors[0]), bits(term.tensors[1]), int(term.ints[0]), int(term.ints[1])};
  }

  /// Granularity along the keys, for the choice of an instance.
  static int block(const PatternTerm& term) { return int(term.ints[1]); }

  /// Why the term does not describe these inputs, or nullptr. What passes here is never read out of bounds.
  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    const int64_t extent[] = {in.q.shape[2], in.k.shape[2]};
    int64_t blocks[2];
    for (int n = 0; n < 2; ++n) {
      if (term.ints[n] < 16 || term.ints[n] % 16 || term.ints[n] > kUnlimited)
        return "block sizes must be positive multiples of 16";
      blocks[n] = (extent[n] + term.ints[n] - 1) / term.ints[n];
    }
    for (int n = 0; n < 2; ++n) {
      const TensorView& bits = term.tensors[n];
      if (bits.dtype != DType::int32 || bits.rank != 4) return "by_row and by_column must be int32 with 4 dimensions";
      if ((bits.shape[0] != 1 && bits.shape[0] != in.q.shape[0]) ||
          (bits.shape[1] != 1 && bits.shape[1] != in.q.shape[1]))
        return "by_row and by_column must have 1 or all of the batches and query heads";
      if (bits.shape[2] != blocks[n] || bits.shape[3] != (blocks[1 - n] + 31) / 32)
        return "by_row must be (B|1, Hq|1, block rows, ceil(block columns / 32)), by_column the same of the transposed "
               "mask";
      int64_t stride = 1;
      for (int d = 3; d >= 0; stride *= bits.shape[d--])
        if (bits.shape[d] > 1 && bits.stride[d] != stride) return "by_row and by_column must be contiguous";
    }
    return nullptr;
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int block = column / block_columns;
    return (by_row.line(frame, row / block_rows)[block >> 5] >> (block & 31)) & 1u;
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int first = box.column_begin / block_columns, last = (box.column_end - 1) / block_columns;
    bool any = false, all = true;
    SPLASH_NO_UNROLL
    for (int line = box.row_begin / block_rows; line <= (box.row_end - 1) / block_rows; ++line) {
      const uint32_t* words = by_row.line(frame, line);
      SPLASH_NO_UNROLL
      for (int n = first >> 5; n <= last >> 5; ++n) {
        const uint32_t wanted = span(first - 32 * n, last - 32 * n);
        const uint32_t kept = words[n] & wanted;
        any |= kept != 0;
        all &= kept == wanted;
      }
    }
    return all ? TileState::full : (any ? TileState::partial : TileState::empty);
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return next(by_row, frame, row_begin / block_rows, (row_end - 1) / block_rows, block_columns, column);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return next(by_column, frame, column_begin / block_columns, (column_end - 1) / block_columns, block_rows, row);
  }

 private:
  static SPLASH_HD Bits bits(const TensorView& view) {
    return {static_cast<const uint32_t*>(view.data), view.shape[0] == 1 ? 0 : view.stride[0],
            view.shape[1] == 1 ? 0 : view.stride[1], int(view.shape[2]), int(view.shape[3])};
  }

  /// Bits first..last of a word, where either may lie outside it.
  static SPLASH_HD uint32_t span(int first, int last) {
    const uint32_t from = first <= 0 ? ~0u : ~0u << first;
    const uint32_t to = last >= 31 ? ~0u : ~(~0u << (last + 1));
    return from & to;
  }

  static SPLASH_HD int lowest_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
    return __ffs(int(word)) - 1;
#else
    return __builtin_ctz(word);
#endif
  }

  static SPLASH_HD int next(const Bits& bits, const Frame& frame, int first_line, int last_line, int block, int from) {
    const int start = from / block;
    SPLASH_NO_UNROLL
    for (int n = start >> 5; n < bits.words_a_line; ++n) {
      uint32_t word = 0;
      SPLASH_NO_UNROLL
      for (int line = first_line; line <= last_line; ++line) word |= bits.line(frame, line)[n];
      word &= span(start - 32 * n, 31);
      if (word) {
        const int found = (32 * n + lowest_bit(word)) * block;
        return found < from ? from : found;
      }
    }
    return kEnd;
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
