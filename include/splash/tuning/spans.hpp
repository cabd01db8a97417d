// Which widths of tiles patterns choose between, and what instances are made for by them. Where the numbers come from:
// benchmarks/notes/forward.md.
#pragma once

#include "splash/patterns/concept.hpp"

namespace splash::tuning {

inline constexpr patterns::TileWidths kTileWidths{.narrow = 64, .short_row = 640};

/// The spans of keys that the rows of an instance are made of.
enum class Spans : int {
  any,       ///< of any length
  narrow,    ///< short ones, or ones with gaps between them: tiles of 64 columns
  lists64,   ///< lists of blocks, whose edges lie at multiples of 64
  lists128,  ///< and at multiples of 128
};

inline constexpr const char* kSpanNames[] = {"any", "narrow", "lists64", "lists128"};

/// What serves a pattern best of which tile_columns() says `columns`; lists: the pattern is lists of blocks.
constexpr Spans spans_of(int columns, bool lists) {
  if (columns == 0 || columns % kTileWidths.narrow) return Spans::any;
  if (!lists) return Spans::narrow;
  return columns % (2 * kTileWidths.narrow) ? Spans::lists64 : Spans::lists128;
}

/// The same where the pattern is one of several terms, or runs in an instance for any pattern: tiles are narrow where
/// some edges are.
constexpr Spans spans_among_others(Spans own) {
  return own == Spans::lists64 ? Spans::narrow : (own == Spans::lists128 ? Spans::any : own);
}

/// Whether there is an instance of the pattern for such spans.
template <patterns::Pattern Pattern>
constexpr bool has_spans(Spans spans) {
  return spans == Spans::any || (spans != Spans::narrow) == bool(patterns::BlockListPattern<Pattern>);
}

}  // namespace splash::tuning
