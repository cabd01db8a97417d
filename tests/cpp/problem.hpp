// A small attention problem with its memory, for the tests that call cpu::forward and cpu::backward themselves.
#pragma once

#include <cmath>
#include <vector>

#include "splash/core/arguments.hpp"

struct Problem {
  static constexpr int kBatch = 1, kHeads = 2, kDim = 8;
  int rows, columns;
  std::vector<float> q, k, v, out, statistic, saved, grad_out, grad_q, grad_k, grad_v;
  splash::ForwardArguments forward;
  splash::BackwardArguments backward;

  Problem(int num_rows, int num_columns, double alpha) : rows(num_rows), columns(num_columns) {
    const int queries = kBatch * kHeads * rows, keys = kBatch * kHeads * columns;
    fill(q, queries * kDim, 1.0f), fill(k, keys * kDim, 2.0f), fill(v, keys * kDim, 3.0f);
    fill(grad_out, queries * kDim, 4.0f);
    for (std::vector<float>* result : {&out, &grad_q}) result->assign(queries * kDim, -7.0f);
    for (std::vector<float>* result : {&grad_k, &grad_v}) result->assign(keys * kDim, -7.0f);
    statistic.assign(queries, -7.0f);
    saved.assign(2 * queries, -7.0f);

    splash::AttentionInputs& in = forward.in;
    in.q = view(q, rows), in.k = view(k, columns), in.v = view(v, columns);
    in.scale = 0.5;
    in.normalizer.num_floats = 1;
    in.normalizer.floats[0] = alpha;
    in.positions.q_start = columns - rows;
    forward.out = view(out, rows);
    forward.statistic.data = statistic.data();
    forward.saved.data = saved.data();

    backward.in = in;
    backward.out = forward.out;
    backward.statistic = forward.statistic;
    backward.saved = forward.saved;
    backward.grad_out = view(grad_out, rows);
    backward.grad_q = view(grad_q, rows), backward.grad_k = view(grad_k, columns),
    backward.grad_v = view(grad_v, columns);
  }
  Problem(const Problem&) = delete;

  const float* query(int head, int row) const { return &q[(head * rows + row) * kDim]; }
  const float* key(int head, int column) const { return &k[(head * columns + column) * kDim]; }
  const float* value(int head, int column) const { return &v[(head * columns + column) * kDim]; }
  const float* output(int head, int row) const { return &out[(head * rows + row) * kDim]; }

  /// scale * q . k
  double score(int head, int row, int column) const {
    double sum = 0;
    for (int d = 0; d < kDim; ++d) sum += double(query(head, row)[d]) * key(head, column)[d];
    return forward.in.scale * sum;
  }

 private:
  static void fill(std::vector<float>& data, int count, float phase) {
    data.resize(count);
    for (int n = 0; n < count; ++n) data[n] = std::sin(phase + 0.7f * float(n) + 0.01f * float(n % 97) * float(n % 89));
  }
  static splash::TensorView view(std::vector<float>& data, int lines) {
    return {data.data(),
            splash::DType::float32,
            4,
            {kBatch, kHeads, lines, kDim},
            {int64_t(kHeads) * lines * kDim, int64_t(lines) * kDim, kDim, 1}};
  }
};
