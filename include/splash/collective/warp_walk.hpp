// The walk of tile_walk.hpp by a warp: many tiles are classified at a time.
#pragma once

#include "splash/patterns/bits.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// What patterns::TileWalk does, with the same arguments and answers, for all lanes of a warp together. A pattern's
/// answer takes a warp hundreds of cycles, as long as the products of a tile. So it is asked once in 32 tiles, one a
/// lane; or once in 1024, where it holds bits of tiles, 32 of them a lane.
/// Span: says row_begin(), row_end() and column_end(); it is asked each time, since registers are few.
enum class WalkBy { either, bits, answers };

template <patterns::Pattern P, class Span, WalkBy By = WalkBy::either>
class WarpWalk {
 public:
  __device__ __forceinline__ WarpWalk(const P& pattern, const Frame& frame, const Span& span, int size, int from)
      : pattern_(pattern), frame_(frame), span_(span), size_(size) {
    restart(from);
  }

  WarpWalk(const P&&, const Frame&, const Span&, int, int) = delete;  // keeps references

  __device__ __forceinline__ bool done() const { return live_ == 0; }
  __device__ __forceinline__ int begin() const { return first_ + patterns::lowest_bit(live_) * size_; }
  __device__ __forceinline__ TileState state() const {
    return full_ & live_ & (0u - live_) ? TileState::full : TileState::partial;
  }
  __device__ __forceinline__ void advance() {
    live_ &= live_ - 1;
    if (live_) return;
    if constexpr (kBits)
      if (By == WalkBy::bits || bits_) return next_line();
    if constexpr (By != WalkBy::bits) seek(first_ + 32 * size_);
  }

  /// To the first tile from `from` on: the pattern may have changed.
  __device__ __forceinline__ void restart(int from) {
    live_ = 0;
    if (span_.row_begin() >= span_.row_end() || from >= span_.column_end()) return;
    if constexpr (kBits) {
      bits_ = By == WalkBy::bits || pattern_.has_tile_bits(frame_, size_);
      if (bits_) {
        read_lines(from / size_ >> 10 << 5, from / size_);
        return next_line();
      }
    }
    if constexpr (By != WalkBy::bits) seek(from);
  }

 private:
  static constexpr bool kBits = By != WalkBy::answers && patterns::TileBitsPattern<P>;

  __device__ __forceinline__ static int lane() { return int(threadIdx.x & 31); }

  __device__ __forceinline__ void seek(int column) {
    const int rows = span_.row_begin(), end = span_.row_end(), extent = span_.column_end();
    SPLASH_NO_UNROLL
    for (; column < extent && live_ == 0; column = first_ + 32 * size_) {
      column = pattern_.next_column(frame_, rows, end, column);
      if (column >= extent) return;
      first_ = column / size_ * size_;
      const int own = first_ + lane() * size_;
      TileState state = TileState::empty;
      if (own < extent) state = pattern_.classify(frame_, {rows, end, own, patterns::least(own + size_, extent)});
      live_ = __ballot_sync(~0u, state != TileState::empty);
      full_ = __ballot_sync(~0u, state == TileState::full);
    }
  }

  /// 32 words of 32 tiles, one a lane, as far as their tiles are not before `from`.
  __device__ __forceinline__ void read_lines(int word, int from) {
    lines_ = word;
    word += lane();
    const int tiles = (span_.column_end() + size_ - 1) / size_;
    own_ = {0, 0};
    if (32 * word < tiles) own_ = pattern_.tile_bits(frame_, span_.row_begin(), span_.row_end(), word);
    own_.kept &= uint32_t(patterns::bits_between(from - 32 * word, tiles - 1 - 32 * word));
    pending_ = __ballot_sync(~0u, own_.kept != 0);
  }

  __device__ __forceinline__ void next_line() {
    SPLASH_NO_UNROLL
    while (pending_ == 0) {
      if ((lines_ + 32) * 32 * size_ >= span_.column_end()) return;
      read_lines(lines_ + 32, 0);
    }
    const int line = patterns::lowest_bit(pending_);
    pending_ &= pending_ - 1;
    live_ = __shfl_sync(~0u, own_.kept, line);
    full_ = __shfl_sync(~0u, own_.full, line);
    first_ = (lines_ + line) * 32 * size_;
  }

  const P& pattern_;
  const Frame& frame_;
  Span span_;
  int size_;
  int first_ = 0;                 ///< column where the tiles of the bits below begin
  uint32_t live_ = 0, full_ = 0;  ///< bit n: tile n is not empty and not passed yet; it is full

  bool bits_ = false;  ///< the pattern holds bits of such tiles
  int lines_ = 0;      ///< the word of lane 0
  patterns::TileBits own_{};
  uint32_t pending_ = 0;  ///< lanes whose tiles are still to come
};

/// The same walk, 32 tiles at a time, which lie in one register of the lanes until they are wanted: where a walk's own
/// registers are too many beside those of what is done with its tiles. source.walk<By>(from): the WarpWalk from a
/// column on; source.has_bits().
template <class Source>
class BatchedWalk {
 public:
  __device__ __forceinline__ BatchedWalk(const Source& source, int from) : source_(source) { restart(from); }

  __device__ __forceinline__ bool done() const { return at_ == count_; }
  __device__ __forceinline__ int begin() const { return tile() & ~1; }
  __device__ __forceinline__ TileState state() const { return tile() & 1 ? TileState::full : TileState::partial; }
  __device__ __forceinline__ void advance() {
    if (++at_ == count_ && next_ != kEnd) restart(next_);
  }

  __device__ __forceinline__ void restart(int from) {
    if constexpr (Source::kBits)
      if (source_.has_bits()) return collect(source_.template walk<WalkBy::bits>(from));
    collect(source_.template walk<WalkBy::answers>(from));
  }

 private:
  __device__ __forceinline__ int tile() const { return __shfl_sync(~0u, own_, at_); }

  template <class Walk>
  __device__ __forceinline__ void collect(Walk&& walk) {
    const int lane = int(threadIdx.x & 31);
    at_ = count_ = 0;
    SPLASH_NO_UNROLL
    for (; count_ < 32 && !walk.done(); ++count_, walk.advance())
      if (lane == count_) own_ = walk.begin() | int(walk.state() == TileState::full);
    next_ = walk.done() ? kEnd : walk.begin();
  }

  Source source_;
  int own_ = 0;  ///< column where the tile begins, an even number; + 1 where it is full
  int at_ = 0, count_ = 0;
  int next_ = kEnd;  ///< column of the first tile after these
};

}  // namespace collective
SPLASH_NAMESPACE_END
