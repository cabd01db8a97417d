// Dilated(window, dilation, causal): (i - j) % dilation == 0 and 0 <= (i - j) / dilation < window; where it is not
// causal, |i - j| / dilation <= window.
#pragma once

#include "splash/patterns/comb.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// One dilation for all heads, or one a query head (of a tensor).
struct Dilated {
  int window;  ///< multiples of the dilation on either side; where it is causal, those before the query and itself
  bool causal;
  Comb comb;
  const int32_t* dilations = nullptr;  ///< (Hq,), in place of that of `comb`

  SPLASH_HD Dilated(int window = 64, int dilation = 1, bool causal = true)
      : window(window), causal(causal), comb(Comb::of(causal ? window - 1 : window, dilation, causal)) {}

  /// ints: window, dilation, causal; or window, causal with the tensor dilations (Hq,) int32.
  static SPLASH_HD Dilated from(const PatternTerm& term) {
    const bool by_head = term.num_tensors > 0;
    Dilated dilated(number(term.ints[0]), by_head ? 1 : most(number(term.ints[1]), 1), term.ints[by_head ? 1 : 2] != 0);
    if (by_head) dilated.dilations = static_cast<const int32_t*>(term.tensors[0].data);
    return dilated;
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
  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    const Dilated dilated = from(term);
    return widths.of_row(dilated.causal ? dilated.window : 2 * int64_t(dilated.window) + 1);
  }

  static bool residues(const PatternTerm& term, int64_t& dilation, int64_t (&sides)[2]) {
    return term.num_tensors == 0 && from(term).comb.residues(dilation, sides);
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    return comb_of(frame).contains(frame.i(row) - frame.j(column));
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    return comb_of(frame).classify(frame.i(box.row_begin) - frame.j(box.column_end - 1),
                                   frame.i(box.row_end - 1) - frame.j(box.column_begin));
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int j = frame.j(column);
    return index_of(comb_of(frame).next_column(frame.i(row_begin), frame.i(row_end - 1), j), frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int i = frame.i(row);
    return index_of(comb_of(frame).next_row(frame.j(column_begin), frame.j(column_end - 1), i), frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    return comb_of(frame).bits(frame.i(row) - frame.j(column));
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return !causal || window > 0; }

 private:
  SPLASH_HD Comb comb_of(const Frame& frame) const {
    if (!dilations) return comb;
    return Comb::of(causal ? window - 1 : window, clamp_to(dilations[frame.head], 1, kUnlimited), causal);
  }
};

/// One dilation a query head, known on the host, too: on CUDA, the heads that share one run as a Dilated of their own.
struct DilatedHeads : Dilated {
  static constexpr bool kList = true;

  /// ints: window, causal. list and tensor: the dilations, the same in both.
  static SPLASH_HD DilatedHeads from(const PatternTerm& term) { return {Dilated::from(term)}; }

  static const char* misfit(const PatternTerm& term, const AttentionInputs& in) {
    if (term.list_size != in.q.shape[1]) return "expected one dilation for each query head";
    for (int64_t head = 0; head < term.list_size; ++head)
      if (term.list[head] < 1 || term.list[head] > kUnlimited) return "dilations must be from 1 to 2^30";
    return Dilated::misfit(term, in);
  }

  /// What one head keeps, as a term of Dilated.
  static Part of_head(const PatternTerm& term, int64_t head) {
    return part_of<Dilated>({term.ints[0], term.list[head], term.ints[1]});
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
