// The one number a row that the backward needs before it can form dS: delta, see normalizers/concept.hpp. Softmax has
// it from rowsum(dO * O), others by a sweep over their scores and dP. Of an output of 16 bits softmax sweeps, too:
// where the terms of dO * O cancel, or dP is nearly the same for all keys, the rounding of O is more than what is left.
// Beside it, each row's share of the gradients of the normalizer's parameters. Lanes are queries, as in the forward.
#pragma once

#include <initializer_list>

#include "splash/cpu/bias.hpp"
#include "splash/cpu/parallel.hpp"
#include "splash/cpu/problem.hpp"
#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

template <class Pattern, class Normalizer, class Real, class Element>
class Delta {
  using Value = Simd<Real>;
  using Gradient = typename Normalizer::template Gradient<Value, 1>;
  using Walk = patterns::TileWalk<Pattern>;
  using Part = Fragment<Real, Lanes::queries>;
  static constexpr int W = Value::kLanes;
  static constexpr int kVectors = kTile / W;
  static constexpr int kRowGradients = normalizers::kRowGradientsOf<Normalizer>;
  static constexpr bool kSweeps = Normalizer::kDeltaSweep || sizeof(Element) < sizeof(Real);

 public:
  Delta(const Pattern& pattern, const BackwardArguments& args)
      : pattern_(pattern),
        problem_(args.in),
        normalizer_(Normalizer::from(args.in.normalizer, problem_.scale.magnitude)),
        out_(Heads<Element>::from(args.out)),
        grad_out_(Heads<Element>::from(args.grad_out)),
        statistic_(static_cast<const Real*>(args.statistic.data)),
        saved_(static_cast<const Real*>(args.saved.data)),
        grad_statistic_(static_cast<const Real*>(args.grad_statistic.data)) {}

  /// delta as the statistics lie, row_gradients (kRowGradients, ...) likewise; rows that are padding are left out.
  Status run(const Parallel& parallel, Real* delta, Real* row_gradients) const {
    const int64_t tiles = problem_.query_tiles(), tasks = tiles * problem_.batch * problem_.heads;
    const int workers = worker_count(parallel, tasks);
    const int64_t bytes = Scratch(nullptr, problem_).bytes;
    const Buffer memory(bytes * workers);
    if (!memory.data()) return out_of_memory();
    for_each_task(parallel, workers, tasks, [&](int worker, int64_t task) {
      const int head = int(task / tiles % problem_.heads), batch = int(task / tiles / problem_.heads);
      query_tile(batch, head, int(tiles - 1 - task % tiles) * kTile, Scratch(memory.data() + worker * bytes, problem_),
                 delta, row_gradients);
    });
    return {};
  }

 private:
  struct Scratch {
    Real *queries = nullptr, *grads = nullptr, *keys = nullptr, *scores = nullptr, *dp = nullptr, *dots;
    int64_t bytes;

    Scratch(unsigned char* data, const Problem<Element>& problem) {
      Arena arena(data);
      if constexpr (kSweeps) {
        for (Real** array : {&queries, &grads, &keys}) *array = arena.take<Real>(int64_t(kTile) * problem.width);
        scores = arena.take<Real>(kTile * kTile);
        dp = arena.take<Real>(kTile * kTile);
      }
      dots = arena.take<Real>(kTile);
      bytes = arena.bytes();
    }
  };

  void query_tile(int batch, int head, int row, const Scratch& scratch, Real* delta, Real* row_gradients) const {
    const Frame frame = problem_.frame(batch, head);
    const int rows = clamp_to(frame.num_queries - row, 0, kTile);
    if (rows <= 0) return;
    const Normalizer normalizer = normalizers::of_head(normalizer_, head);
    const int64_t flat = problem_.flat(frame, row), plane = problem_.plane();
    Gradient state[kVectors];
    for (int v = 0; v * W < rows; ++v) {
      const auto part = [&](const Real* array) { return load_lanes(array + flat + v * W, rows - v * W); };
      state[v].load(normalizer, 0, part(statistic_), [&](int s) { return part(saved_ + s * plane); });
      normalizers::place(normalizer, state[v], 0, Value(Real(frame.i(row + v * W))) + iota<Real>());
    }
    if constexpr (kSweeps)
      sweep(normalizer, frame, row, rows, scratch, state);
    else
      output_dots(frame, row, rows, scratch.dots);
    for (int v = 0; v * W < rows; ++v) {
      const int count = rows - v * W;
      Value dot(Real(0));
      if constexpr (!kSweeps)
        dot = load_lanes(scratch.dots + v * W, count);
      else if constexpr (!Normalizer::kDeltaSweep)
        dot = state[v].output_dot(normalizer, 0, LaneIsRow{});
      const Value dstatistic = grad_statistic_ ? load_lanes(grad_statistic_ + flat + v * W, count) : Value(Real(0));
      state[v].close(normalizer, 0, dot, dstatistic, LaneIsRow{});
      const auto none = normalizers::kept_none<Normalizer>(load_lanes(statistic_ + flat + v * W, count));
      const auto store = [&](Value x, Real* to) {
        store_lanes(math::select(none, Value(Real(0)), x), count, to + flat + v * W);
      };
      store(state[v].delta[0], delta);
      if constexpr (kRowGradients > 0)
        for (int p = 0; p < kRowGradients; ++p)
          store(state[v].row_gradient(normalizer, 0, p), row_gradients + p * plane);
    }
  }

  static void store_lanes(Value x, int count, Real* to) {
    for (int l = 0; l < W && l < count; ++l) to[l] = x.lanes[l];
  }

  static Value load_lanes(const Real* from, int count) {
    if (count >= W) return Value::load(from);
    Value x(Real(0));
    for (int l = 0; l < count; ++l) x.lanes[l] = from[l];
    return x;
  }

  void output_dots(const Frame& frame, int row, int rows, Real* dots) const {
    const auto out = problem_.at_row(out_, frame, row), grads = problem_.at_row(grad_out_, frame, row);
    for (int r = 0; r < rows; ++r) {
      const Element *x = out.data + r * out.stride, *y = grads.data + r * grads.stride;
      Value sum(Real(0));
      Real dot = 0;
      int d = 0;
      for (; d + W <= problem_.width; d += W) sum = Value::fma(load_vector<Real>(x + d), load_vector<Real>(y + d), sum);
      for (; d < problem_.width; ++d) dot += Real(x[d]) * Real(y[d]);
      for (int l = 0; l < W; ++l) dot += sum.lanes[l];
      dots[r] = dot;
    }
  }

  void sweep(const Normalizer& normalizer, const Frame& frame, int row, int rows, const Scratch& scratch,
             Gradient* state) const {
    const int width = problem_.width;
    const QueryTile<Real, Element> queries(problem_.at_row(problem_.q, frame, row), rows, width,
                                           Real(problem_.scale.sign), scratch.queries);
    const QueryTile<Real, Element> grads(problem_.at_row(grad_out_, frame, row), rows, width, Real(1), scratch.grads);
    const int lanes = queries.lanes();
    const Matrix<Real> tile{scratch.scores, lanes};
    for (Walk at(pattern_, frame, row, row + rows, frame.num_keys, kTile); !at.done(); at.advance()) {
      const int count = at.end() - at.begin();
      const auto k = problem_.at_column(problem_.k, frame, at.begin());
      const auto v = problem_.at_column(problem_.v, frame, at.begin());
      queries.times(real_rows<Real, Element>(k, count, width, 1, scratch.keys), count, scratch.scores);
      grads.times(real_rows<Real, Element>(v, count, width, 1, scratch.keys), count, scratch.dp);
      if constexpr (normalizers::kHasBias<Normalizer>)
        add_bias<Lanes::queries>(normalizer.bias(), normalizer.bias_count(), Real(1 / problem_.scale.magnitude), frame,
                                 at.box(), tile);
      if (at.state() == TileState::partial) mask_tile<Lanes::queries>(pattern_, frame, at.box(), tile);
      for (int v = 0; v * W < lanes; ++v) {
        const Part scores{scratch.scores + v * W, lanes, count, at.begin()};
        const Part dp{scratch.dp + v * W, lanes, count, at.begin()};
        state[v].observe(normalizer, scores, dp);
      }
    }
  }

  const Pattern& pattern_;
  Problem<Element> problem_;
  Normalizer normalizer_;
  Heads<Element> out_, grad_out_;
  const Real *statistic_, *saved_, *grad_statistic_;
};

}  // namespace cpu
SPLASH_NAMESPACE_END
