// The shapes of a call, and one tile of queries on its way over the keys.
#pragma once

#include "splash/cpu/mask.hpp"
#include "splash/patterns/tile_walk.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

template <class Element>
struct Problem {
  Positions positions;
  int batch, heads, kv_heads, num_queries, num_keys, width;  ///< width: the head dimension
  Heads<Element> q, k, v;
  math::SignedScale scale;

  explicit Problem(const AttentionInputs& in)
      : positions(in.positions),
        batch(int(in.q.shape[0])),
        heads(int(in.q.shape[1])),
        kv_heads(int(in.k.shape[1])),
        num_queries(int(in.q.shape[2])),
        num_keys(int(in.k.shape[2])),
        width(int(in.q.shape[3])),
        q(Heads<Element>::from(in.q)),
        k(Heads<Element>::from(in.k)),
        v(Heads<Element>::from(in.v)),
        scale(math::split_scale(in.scale)) {}

  int query_tiles() const { return (num_queries + kTile - 1) / kTile; }
  int key_tiles() const { return (num_keys + kTile - 1) / kTile; }
  int group() const { return kv_heads > 0 ? heads / kv_heads : 1; }
  Frame frame(int b, int h) const { return make_frame(positions, b, h, num_queries, num_keys); }
  /// Row of a (B, Hq, Nq) array.
  int64_t flat(int b, int h, int row) const { return (int64_t(b) * heads + h) * num_queries + row; }
};

/// Up to kTile queries of one head, transposed: their products with keys or values have queries in the lanes.
template <class Real, class Element>
class QueryTile {
 public:
  /// `storage` holds width * kTile numbers.
  QueryTile(Matrix<const Element> from, int rows, int width, Real factor, Real* storage)
      : lanes_(round_up(rows, Simd<Real>::kLanes)), width_(width), transposed_{storage, lanes_} {
    load_transposed<Real, Element>(from, rows, width, factor, transposed_, lanes_);
  }

  int lanes() const { return lanes_; }

  /// to[key][query] = keys . queries
  void times(Matrix<const Real> keys, int count, Real* to) const {
    multiply<Real>(count, lanes_, width_, {keys.data, keys.stride, 1}, {transposed_.data, transposed_.stride},
                   {to, lanes_}, Start::zero);
  }

 private:
  int lanes_, width_;
  Matrix<Real> transposed_;
};

}  // namespace cpu
SPLASH_NAMESPACE_END
