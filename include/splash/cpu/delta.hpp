// The one number a row that the backward needs before it can form dS: delta, see normalizers/concept.hpp. Softmax has
// it from rowsum(dO * O), others by a sweep over their scores and dP. Lanes are queries, as in the forward.
#pragma once

#include <initializer_list>

#include "splash/cpu/fragment.hpp"
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
  static constexpr int W = Value::kLanes;
  static constexpr int kVectors = kTile / W;

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

  /// delta (B, Hq, Nq); rows that are padding are left out.
  Status run(const Parallel& parallel, Real* delta) const {
    const int64_t tiles = problem_.query_tiles(), tasks = tiles * problem_.batch * problem_.heads;
    const int workers = worker_count(parallel, tasks);
    const int64_t bytes = Scratch(nullptr, problem_).bytes;
    const Buffer memory(bytes * workers);
    if (!memory.data()) return out_of_memory();
    for_each_task(parallel, workers, tasks, [&](int worker, int64_t task) {
      const int head = int(task / tiles % problem_.heads), batch = int(task / tiles / problem_.heads);
      query_tile(batch, head, int(tiles - 1 - task % tiles) * kTile, Scratch(memory.data() + worker * bytes, problem_),
                 delta);
    });
    return {};
  }

 private:
  struct Scratch {
    Real *queries = nullptr, *grads = nullptr, *keys = nullptr, *scores = nullptr, *dp = nullptr, *dots;
    int64_t bytes;

    Scratch(unsigned char* data, const Problem<Element>& problem) {
      Arena arena(data);
      if constexpr (Normalizer::kDeltaSweep) {
        for (Real** array : {&queries, &grads, &keys}) *array = arena.take<Real>(int64_t(kTile) * problem.width);
        scores = arena.take<Real>(kTile * kTile);
        dp = arena.take<Real>(kTile * kTile);
      }
      dots = arena.take<Real>(kTile);
      bytes = arena.bytes();
    }
  };

  void query_tile(int batch, int head, int row, const Scratch& scratch, Real* delta) const {
    const Frame frame = problem_.frame(batch, head);
    const int rows = clamp_to(frame.num_queries - row, 0, kTile);
    if (rows <= 0) return;
    const int64_t flat = problem_.flat(batch, head, row), plane = problem_.flat(problem_.batch, 0, 0);
    Gradient state[kVectors];
    for (int v = 0; v * W < rows; ++v) {
      const auto part = [&](const Real* array) { return load_lanes(array + flat + v * W, rows - v * W); };
      state[v].load(normalizer_, 0, part(statistic_), [&](int s) { return part(saved_ + s * plane); });
    }
    if constexpr (Normalizer::kDeltaSweep)
      sweep(frame, row, rows, scratch, state);
    else
      output_dots(batch, head, row, rows, scratch.dots);
    for (int v = 0; v * W < rows; ++v) {
      const int count = rows - v * W;
      const Value dot = Normalizer::kDeltaSweep ? Value(Real(0)) : load_lanes(scratch.dots + v * W, count);
      const Value dstatistic = grad_statistic_ ? load_lanes(grad_statistic_ + flat + v * W, count) : Value(Real(0));
      state[v].close(normalizer_, 0, dot, dstatistic, LaneIsRow{});
      for (int l = 0; l < W && l < count; ++l) delta[flat + v * W + l] = state[v].delta[0].lanes[l];
    }
  }

  static Value load_lanes(const Real* from, int count) {
    if (count >= W) return Value::load(from);
    Value x(Real(0));
    for (int l = 0; l < count; ++l) x.lanes[l] = from[l];
    return x;
  }

  void output_dots(int batch, int head, int row, int rows, Real* dots) const {
    const auto out = out_.rows(batch, head, row), grads = grad_out_.rows(batch, head, row);
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

  void sweep(const Frame& frame, int row, int rows, const Scratch& scratch, Gradient* state) const {
    const int kv_head = frame.head / problem_.group(), width = problem_.width;
    const QueryTile<Real, Element> queries(problem_.q.rows(frame.batch, frame.head, row), rows, width,
                                           Real(problem_.scale.sign), scratch.queries);
    const QueryTile<Real, Element> grads(grad_out_.rows(frame.batch, frame.head, row), rows, width, Real(1),
                                         scratch.grads);
    const int lanes = queries.lanes();
    for (Walk at(pattern_, frame, row, row + rows, frame.num_keys, kTile); !at.done(); at.advance()) {
      const int count = at.end() - at.begin();
      const auto k = problem_.k.rows(frame.batch, kv_head, at.begin());
      const auto v = problem_.v.rows(frame.batch, kv_head, at.begin());
      queries.times(real_rows<Real, Element>(k, count, width, 1, scratch.keys), count, scratch.scores);
      grads.times(real_rows<Real, Element>(v, count, width, 1, scratch.keys), count, scratch.dp);
      if (at.state() == TileState::partial)
        mask_tile<Lanes::queries>(pattern_, frame, at.box(), Matrix<Real>{scratch.scores, lanes});
      for (int v = 0; v * W < lanes; ++v) {
        const Fragment<Real> scores{scratch.scores + v * W, 0, lanes, count};
        const Fragment<Real> dp{scratch.dp + v * W, 0, lanes, count};
        state[v].observe(normalizer_, scores, dp);
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
