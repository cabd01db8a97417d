// Strided(local, stride): j <= i and (i - j < local or (i - j) % stride == 0).
#pragma once

#include "splash/patterns/comb.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

struct Strided {
  int local;  ///< last keys of a query, itself included
  Comb comb;  ///< every stride-th key before it

  SPLASH_HD Strided(int local = 64, int stride = 64) : local(local), comb(Comb::between(stride, 0, kUnlimited)) {}

  /// ints: local, stride.
  static SPLASH_HD Strided from(const PatternTerm& term) {
    return {number(term.ints[0]), most(number(term.ints[1]), 1)};
  }

  static const char* misfit(const PatternTerm& term, const AttentionInputs&) {
    if (term.ints[0] < 0) return "local must not be negative";
    return term.ints[1] < 1 || term.ints[1] > kUnlimited ? "stride must be from 1 to 2^30" : nullptr;
  }

  /// Tiles narrower than the stride miss teeth that wider ones meet.
  static int tile_columns(const PatternTerm& term, const TileWidths& widths) {
    return term.ints[1] > 2 * widths.narrow ? widths.narrow : 0;
  }

  static bool residues(const PatternTerm& term, int64_t& dilation, int64_t (&sides)[2]) {
    const Strided strided = from(term);
    return (strided.local <= 1 || strided.comb.step.divisor == 1) && strided.comb.residues(dilation, sides);
  }

  /// The last keys as a window, those before them as a window in each class of positions.
  static int parts(const PatternTerm& term, const AttentionInputs&, const int64_t (&band)[2],
                   Part (&parts)[kMaxParts]) {
    const int64_t local = most(from(term).local, 1), stride = term.ints[1];
    int64_t dilation, sides[2];
    if (!from(term).comb.residues(dilation, sides)) return 0;
    const int64_t reach = band[0] < 0 ? -1 : band[0] / stride, nearest = (local + stride - 1) / stride;
    int count = 0;
    if (reach < 0 || reach >= nearest) parts[count++] = window_part(reach, nearest, stride);
    parts[count++] = window_part(shorter_side(local - 1, band[0]), 0, 1);
    return count;
  }

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    const int distance = frame.i(row) - frame.j(column);
    return comb.contains(distance) || (distance >= 0 && distance < local);
  }

  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    const int first = frame.i(box.row_begin) - frame.j(box.column_end - 1);
    const int last = frame.i(box.row_end - 1) - frame.j(box.column_begin);
    if (first >= 0 && last < local) return TileState::full;
    // What the window does not hold; where it holds some, the box is not empty.
    const TileState teeth = comb.classify(most(first, local), last);
    if (teeth == TileState::full) return first >= 0 ? teeth : TileState::partial;
    return last >= 0 && first < local ? TileState::partial : teeth;
  }

  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    const int i0 = frame.i(row_begin), i1 = frame.i(row_end - 1), j = frame.j(column);
    const int in_window = next_within(i0 - local + 1, i1, j);
    return index_of(in_window == j ? j : least(in_window, comb.next_column(i0, i1, j)), frame.k_start);
  }

  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    const int j0 = frame.j(column_begin), j1 = frame.j(column_end - 1), i = frame.i(row);
    const int in_window = next_within(j0, j1 + local - 1, i);
    return index_of(in_window == i ? i : least(in_window, comb.next_row(j0, j1, i)), frame.q_start);
  }

  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    const int distance = frame.i(row) - frame.j(column);
    return comb.bits(distance) | bits_between(distance - local + 1, distance);
  }

  SPLASH_HD bool keeps_self(const Frame&) const { return true; }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
