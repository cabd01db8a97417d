// Which tokens a head sees in a branch of LongNet (Ding et al. 2023, arXiv:2307.02486).
#pragma once

#include "splash/core/longnet.hpp"
#include "splash/patterns/arithmetic.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// The tokens m * w + residue + r * t of all segments m, in rising order.
struct LongNetTokens {
  FastDivide segment, rate;
  int residue, per_segment;

  SPLASH_HD LongNetTokens(int w, int r, int residue)
      : segment(w), rate(r), residue(residue), per_segment(most(0, (w - residue + r - 1) / r)) {}

  /// The place of a token among them, -1 where it is none of them.
  SPLASH_HD int place(int token) const {
    const int m = segment.quotient(token), rest = token - m * segment.divisor - residue;
    if (rest < 0) return -1;
    const int t = rate.quotient(rest);
    return t * rate.divisor == rest ? m * per_segment + t : -1;
  }

  /// How many of them lie below `tokens`.
  SPLASH_HD int count(int tokens) const {
    const int m = segment.quotient(tokens), rest = tokens - m * segment.divisor - residue;
    return m * per_segment + (rest > 0 ? rate.quotient(rest - 1) + 1 : 0);
  }
};

/// A part as one head of one batch entry sees it.
template <class Element, class Real>
struct LongNetHead {
  LongNetTokens tokens;
  Element* rows;
  const Real* lse;
  int64_t row_stride, lse_stride;

  /// Whether the part has this head.
  static SPLASH_HD bool has(const LongNetPart& part, int head) {
    const int residue = head % int(part.rate) - int(part.first);
    return residue >= 0 && residue < part.rows.shape[1];
  }

  SPLASH_HD LongNetHead(const LongNetPart& part, int batch, int head)
      : tokens(int(part.segment), int(part.rate), head % int(part.rate)),
        rows(static_cast<Element*>(part.rows.data) + offset(part.rows, part, batch, head)),
        lse(static_cast<const Real*>(part.lse.data) + offset(part.lse, part, batch, head)),
        row_stride(part.rows.stride[3]),
        lse_stride(part.lse.stride[3]) {}

 private:
  static SPLASH_HD int64_t offset(const TensorView& view, const LongNetPart& part, int batch, int head) {
    const int rate = int(part.rate);
    return batch * view.stride[0] + (head % rate - part.first) * view.stride[1] + head / rate * view.stride[2];
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
