// Dilated(window, dilation, causal): (i - j) % dilation == 0 and 0 <= (i - j) / dilation < window; where it is not
// causal, |i - j| / dilation <= window.
#pragma once

#include "splash/patterns/comb.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// One dilation for all heads, or one a query head (of a tensor).
struct Dilated {
  int window = 64, dilation = 1;
  bool causal = true;
  const int32_t* dilations = nullptr;  ///< (Hq,), instead of `dilation`

  /// ints: window, dilation, causal; or window, causal with the tensor dilations (Hq,) int32.
  static SPLASH_HD Dilated from(const PatternTerm& term) {
    const bool by_head = term.num_tensors > 0;
    return {number(term.ints[0]), by_head ? 1 : most(number(term.ints[1]), 1), term.ints[by_head ? 1 : 2] != 0,
            by_head ? static_cast<const int32_t*>(term.tensors[0].data) : nullptr};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    if (term.ints[0] < 0) return "window must not be negative";
    if (term.num_tensors == 0)
      return term.ints[1] < 1 || term.ints[1] > kUnlimited ? "dilation must be from 1 to 2^30" : nullptr;
    const TensorView& tensor = term.tensors[0];
    if (tensor.dtype != DType::int32 || tensor.rank != 1 || tensor.shape[0] != in.q.shape[1])
      return "dilations must be int32, one for each query head";
    return tensor.shape[0] > 1 && tensor.stride[0] != 1 ? "dilations must be contiguous" : nullptr;
  }

  /// Of the keys of one residue, which run as a window.
  static int block(const PatternTerm& term) {
    const Dilated dilated = from(term);
    return block_for(dilated.causal ? dilated.window : 2 * int64_t(dilated.window) + 1);
  }

  static bool residues(const PatternTerm& term, int64_t& dilation, int64_t (&sides)[2]) {
    if (term.num_tensors > 0) return false;
    const Dilated dilated = from(term);
    return dilated.comb({}).residues(dilation, sides);
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    return comb(frame).contains(frame.i(row) - frame.j(column));
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int first = frame.i(box.row_begin) - frame.j(box.column_end - 1);
    const int last = frame.i(box.row_end - 1) - frame.j(box.column_begin);
    const Comb distances = comb(frame);
    if (!distances.any(first, last)) return TileState::empty;
    return distances.all(first, last) ? TileState::full : TileState::partial;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return index_of(comb(frame).next_column(frame.i(row_begin), frame.i(row_end - 1), frame.j(column)), frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return index_of(comb(frame).next_row(frame.j(column_begin), frame.j(column_end - 1), frame.i(row)), frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    return comb(frame).bits(frame.i(row) - frame.j(column));
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return !causal || window > 0; }

 private:
  SPLASH_HD Comb comb(const Frame& frame) const {
    const int step = dilations ? clamp_to(dilations[frame.head], 1, kUnlimited) : dilation;
    return Comb::of(causal ? window - 1 : window, step, causal);
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
