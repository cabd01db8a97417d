// The walk over non-empty tiles, one after the other. A warp of a GPU takes many at a time (collective/warp_walk.hpp).
#pragma once

#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// Tiles [tile * size, (tile + 1) * size) along the columns, clipped to [0, extent), that the rows [row_begin, row_end)
/// see, in ascending order. Positioned on the first one when made; `done()` after the last. For the key-major walk,
/// hand in Transposed<P> and the extent of the rows. `from` is where the walk begins, a multiple of the size.
template <Pattern P>
class TileWalk {
 public:
  SPLASH_HD TileWalk(const P& pattern, const Frame& frame, int row_begin, int row_end, int extent, int size,
                     int from = 0)
      : pattern_(pattern), frame_(frame), row_begin_(row_begin), row_end_(row_end), extent_(extent), size_(size) {
    if (row_begin < row_end) seek(from);
  }

  TileWalk(const P&&, const Frame&, int, int, int, int, int = 0) = delete;  // keeps references

  SPLASH_HD bool done() const { return tile_ < 0; }
  SPLASH_HD int tile() const { return tile_; }
  SPLASH_HD int begin() const { return tile_ * size_; }
  SPLASH_HD int end() const { return clip((tile_ + 1) * size_); }
  SPLASH_HD Box box() const { return {row_begin_, row_end_, begin(), end()}; }
  SPLASH_HD TileState state() const { return state_; }
  SPLASH_HD void advance() { seek((tile_ + 1) * size_); }

  /// To the first tile from `from` on: the pattern may have changed.
  SPLASH_HD void restart(int from) {
    if (row_begin_ < row_end_) seek(from);
  }

 private:
  SPLASH_HD int clip(int column) const { return column < extent_ ? column : extent_; }

  SPLASH_HD void seek(int column) {
    for (tile_ = -1; column < extent_; column = (tile_ + 1) * size_, tile_ = -1) {
      column = pattern_.next_column(frame_, row_begin_, row_end_, column);
      if (column >= extent_) return;
      tile_ = column / size_;
      state_ = pattern_.classify(frame_, box());
      if (state_ != TileState::empty) return;
    }
  }

  const P& pattern_;
  const Frame& frame_;
  int row_begin_, row_end_, extent_, size_;
  int tile_ = -1;
  TileState state_ = TileState::empty;
};

}  // namespace patterns
SPLASH_NAMESPACE_END
