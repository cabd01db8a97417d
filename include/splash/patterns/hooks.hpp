// Whether the optional hooks of a pattern are such that mainloops and the dispatcher find them. One with another
// signature would never be called, in silence.
#pragma once

#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

template <Pattern P>
consteval bool hooks_are_spelled_right() {
  static_assert(
      !requires { &P::kept_bits; } || BitsPattern<P>,
      "kept_bits must be: uint64_t kept_bits(const Frame&, int row, int column) const");
  static_assert(
      !requires { &P::tile_bits; } || TileBitsPattern<P>,
      "tile_bits must be: TileBits tile_bits(const Frame&, int row_begin, int row_end, int word) const, beside "
      "bool has_tile_bits(const Frame&, int columns) const");
  static_assert(
      !requires { &P::row_tile_bits; } || RowTileBitsPattern<P>,
      "row_tile_bits must be: TileBits row_tile_bits(const Frame&, int column_begin, int column_end, int "
      "word) const, beside bool has_row_tile_bits(const Frame&, int rows) const");
  static_assert(
      !requires { &P::keeps_self; } ||
          requires(const P& p, const Frame& frame) {
            { p.keeps_self(frame) } -> std::same_as<bool>;
          },
      "keeps_self must be: bool keeps_self(const Frame&) const");
  static_assert(
      !requires { &P::closes; } ||
          requires(const P& p) {
            { p.closes(1) } -> std::same_as<bool>;
          },
      "closes must be: bool closes(int run) const");
  return true;
}

}  // namespace patterns
SPLASH_NAMESPACE_END
