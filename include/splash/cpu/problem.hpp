// The shapes of a call, and one tile of queries on its way over the keys.
#pragma once

#include "splash/cpu/mask.hpp"
#include "splash/patterns/tile_walk.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

template <class Element>
struct Problem {
  Positions positions;
  bool packed;
  int batch;  ///< entries, or packed sequences
  int heads, kv_heads;
  int num_queries, num_keys;      ///< of an entry, at most
  int total_queries, total_keys;  ///< rows of the tensors
  int width;                      ///< the head dimension
  Heads<Element> q, k, v;
  math::SignedScale scale;

  explicit Problem(const AttentionInputs& in)
      : positions(in.positions),
        packed(in.positions.cu_queries != nullptr),
        batch(int(packed ? in.positions.sequences : in.q.shape[0])),
        heads(int(in.q.shape[1])),
        kv_heads(int(in.k.shape[1])),
        num_queries(longest(in.q.shape[2], packed, in.positions.max_queries)),
        num_keys(longest(in.k.shape[2], packed, in.positions.max_keys)),
        total_queries(int(in.q.shape[2])),
        total_keys(int(in.k.shape[2])),
        width(int(in.q.shape[3])),
        q(Heads<Element>::from(in.q)),
        k(Heads<Element>::from(in.k)),
        v(Heads<Element>::from(in.v)),
        scale(math::split_scale(in.scale)) {}

  int query_tiles() const { return (num_queries + kTile - 1) / kTile; }
  int key_tiles() const { return (num_keys + kTile - 1) / kTile; }
  int group() const { return kv_heads > 0 ? heads / kv_heads : 1; }
  Frame frame(int b, int h) const {
    return packed ? make_packed_frame(positions, b, h, total_queries, total_keys)
                  : make_frame(positions, b, h, num_queries, num_keys);
  }

  /// Rows and columns of the tensors that belong to the frame, padding included.
  int rows(const Frame& frame) const { return packed ? frame.num_queries : num_queries; }
  int columns(const Frame& frame) const { return packed ? frame.num_keys : num_keys; }

  /// Rows from `row` on of a tensor shaped like q, and from `column` on of one shaped like k.
  template <class E>
  Matrix<E> at_row(const Heads<E>& tensor, const Frame& frame, int row) const {
    return tensor.rows(packed ? 0 : frame.batch, frame.head, frame.first_row + row);
  }
  template <class E>
  Matrix<E> at_column(const Heads<E>& tensor, const Frame& frame, int column) const {
    return tensor.rows(packed ? 0 : frame.batch, frame.head / group(), frame.first_column + column);
  }

  /// Row of an array of statistics, and how many rows that has.
  int64_t flat(const Frame& frame, int row) const {
    const int64_t entry = packed ? 0 : frame.batch;
    return (entry * heads + frame.head) * total_queries + frame.first_row + row;
  }
  int64_t plane() const { return int64_t(packed ? 1 : batch) * heads * total_queries; }

  /// Whether every row (column) of the tensors belongs to some frame. Packed sequences may leave some out.
  bool covers_rows() const { return !packed || covers(positions.cu_queries, positions.max_queries, total_queries); }
  bool covers_columns() const { return !packed || covers(positions.cu_keys, positions.max_keys, total_keys); }

 private:
  static int longest(int64_t total, bool packed, int64_t claimed) {
    return int(packed && claimed < total ? claimed : total);
  }
  bool covers(const int32_t* ends, int64_t longest, int total) const {
    bool all = ends[0] <= 0 && ends[batch] >= total;
    for (int b = 0; b < batch; ++b) all = all && ends[b + 1] >= ends[b] && int64_t(ends[b + 1]) - ends[b] <= longest;
    return all;
  }
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
