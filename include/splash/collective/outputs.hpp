// Where the rows of a work tile go: tensors, and the workspace of rows whose columns are split.
#pragma once

#include "splash/collective/work.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// A factor of 0 makes zeros of NaN, too.
SPLASH_HD float scaled(float value, float factor) { return factor == 0.0f ? 0.0f : value * factor; }

/// Of the forward. Output rows are 16-byte aligned and reached by strides, so that rows of packed sequences and of
/// classes of positions are written without touching their neighbours.
template <class Element>
struct OutputForward {
  Element* out;
  int64_t row_stride, head_stride, batch_stride;
  float* statistic;      ///< (B, Hq, Nq)
  float* saved;          ///< (kSaved, B, Hq, Nq)
  int64_t saved_stride;  ///< B * Hq * Nq
  float* partial;        ///< (split items, tile rows, D instance): O of a range of keys, normalized within it
  float* partial_lse;    ///< (split items, tile rows)
  int num_queries, heads, head_dim, residues, log2_pack;
  bool accumulate;  ///< out and statistic hold the results for other keys, from which the rows go on

  /// Of one (query, head) of a WorkTile, counted in its problem.
  struct Row {
    int64_t row;
    int head, batch;
  };
  SPLASH_HD Row locate(const WorkTile& work, bool packed_sequences, int index) const {
    const int query = index >> log2_pack;
    return {int64_t(work.queries.outer + query) * residues + work.queries.inner,
            work.frame.head + index - (query << log2_pack), packed_sequences ? 0 : work.frame.batch};
  }
  SPLASH_HD Element* at(const Row& row) const {
    return out + row.batch * batch_stride + row.head * head_stride + row.row * row_stride;
  }
  SPLASH_HD int64_t statistic_at(const Row& row) const {
    return (int64_t(row.batch) * heads + row.head) * num_queries + row.row;
  }
};

/// A gradient's tensor; strides in elements.
template <class Element>
struct GradientTensor {
  Element* data;
  int64_t row_stride, head_stride, batch_stride;
  float scale;  ///< what is added up is multiplied by it
};

/// Of the backward: of out1 and out2, or of the one there is. Partial results are a float32 tile a split item.
template <class Element>
struct OutputBackward {
  GradientTensor<Element> gradients[2];
  float* partial;       ///< (outputs, split items, tile rows, D instance)
  float* partial_dots;  ///< (split items, tile rows), where `dots`
  float* dots;          ///< (B, Hq, Nq), or nullptr: sum P dP of each query
  int split_items, head_dim;
  bool adds;  ///< to what the tensors hold

  SPLASH_HD Element* at(int output, const Geometry& geometry, const WorkTile& work, int index) const {
    const GradientTensor<Element>& to = gradients[output];
    const int batch = geometry.packed_sequences() ? 0 : work.frame.batch;
    const int head = geometry.key_major ? work.frame.head / geometry.group : work.frame.head;
    return to.data + batch * to.batch_stride + head * to.head_stride +
           row_at(geometry, work.queries, index) * to.row_stride;
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
