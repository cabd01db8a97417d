// Attention on the host, forward: O = normalize(scale Q K^T) V over the tiles that the pattern keeps.
//
// A task is a tile of queries of one head. SIMD lanes are queries throughout: S^T = K Q^T and O^T += V^T P^T are
// outer products of broadcast keys or values with vectors of queries, a row statistic is a lane, and no product needs
// a packed copy of K or V. Sequences of few queries go another way (few_queries.hpp).
#pragma once

#include "splash/cpu/bias.hpp"
#include "splash/cpu/few_queries.hpp"
#include "splash/cpu/fragment.hpp"
#include "splash/cpu/hooks.hpp"
#include "splash/cpu/parallel.hpp"
#include "splash/cpu/problem.hpp"
#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

template <class Pattern, class Normalizer, class Real, class Element>
class Forward {
  using Value = Simd<Real>;
  using Row = typename Normalizer::template Rows<Value, 1>;
  using Walk = patterns::TileWalk<Pattern>;
  using Scores = Fragment<Real, Lanes::queries>;
  static_assert(normalizers::forward_calls_all_hooks<Normalizer, kForwardHooks>());
  static_assert(patterns::hooks_are_spelled_right<Pattern>());
  static constexpr int W = Value::kLanes;
  static constexpr int kVectors = kTile / W;
  /// Score tiles kept between sweeps; rows that see more keys compute the others again.
  static constexpr int kPanelTiles = Normalizer::kScoreSweeps ? 64 : 0;

 public:
  Forward(const Pattern& pattern, const ForwardArguments& args)
      : pattern_(pattern),
        problem_(args.in),
        normalizer_(Normalizer::from(args.in.normalizer, problem_.scale.magnitude)),
        out_(Heads<Element>::from(args.out)),
        statistic_(static_cast<Real*>(args.statistic.data)),
        saved_(static_cast<Real*>(args.saved.data)) {}

  Status run(const Parallel& parallel) const {
    const int64_t tiles = problem_.query_tiles();
    const int64_t tasks = tiles * problem_.batch * problem_.heads;
    if (!problem_.covers_rows()) empty_tensors();
    if (tasks == 0) return {};
    const bool few = problem_.num_queries <= kFewQueries;
    if (few || problem_.packed) {
      const FewQueries<Pattern, Normalizer, Real, Element> rows(pattern_, problem_, normalizer_, out_, statistic_,
                                                                saved_);
      const Status status = rows.run(parallel);
      if (few || !status.ok()) return status;
    }
    const int workers = worker_count(parallel, tasks);
    const int64_t bytes = Scratch(nullptr, problem_).bytes;
    const Buffer memory(bytes * workers);
    if (!memory.data()) return out_of_memory();
    for_each_task(parallel, workers, tasks, [&](int worker, int64_t task) {
      const int head = int(task / tiles % problem_.heads), batch = int(task / tiles / problem_.heads);
      // Under a causal mask the last rows are the longest: first come, first served then ends even.
      const int row = int(tiles - 1 - task % tiles) * kTile;
      query_tile(batch, head, row, Scratch(memory.data() + worker * bytes, problem_));
    });
    return {};
  }

 private:
  struct Scratch {
    Real *queries, *keys, *values, *panel, *output, *row;
    int64_t bytes;

    Scratch(unsigned char* data, const Problem<Element>& problem) {
      Arena arena(data);
      const int64_t tile = int64_t(kTile) * problem.width;
      queries = arena.take<Real>(tile);
      keys = arena.take<Real>(tile);
      values = arena.take<Real>(tile);
      output = arena.take<Real>(tile);
      panel = arena.take<Real>(int64_t(kTile) * kTile * (kPanelTiles + 1));
      row = arena.take<Real>(kTile);
      bytes = arena.bytes();
    }
  };

  /// A tile of queries together with the scores that are there already.
  struct Task {
    const Normalizer& normalizer;  ///< of the head
    const Frame& frame;
    int row, rows;
    const QueryTile<Real, Element>& queries;
    const Scratch& scratch;
    int computed = 0;  ///< tiles of the panel
    int vectors() const { return queries.lanes() / W; }
  };

  void query_tile(int batch, int head, int row, const Scratch& scratch) const {
    const Frame frame = problem_.frame(batch, head);
    if (problem_.rows(frame) <= kFewQueries) return;  // done already
    const int all = clamp_to(problem_.rows(frame) - row, 0, kTile);
    const int rows = clamp_to(frame.num_queries - row, 0, all);
    const Normalizer normalizer = normalizers::of_head(normalizer_, head);
    if (rows > 0) {
      const Real sign = Real(problem_.scale.sign);
      const QueryTile<Real, Element> queries(problem_.at_row(problem_.q, frame, row), rows, problem_.width, sign,
                                             scratch.queries);
      Task task{normalizer, frame, row, rows, queries, scratch};
      Row state[kVectors];
      place(normalizer, frame, row, state);
      if constexpr (Normalizer::kScoreSweeps) score_sweeps(task, state);
      output_sweep(task, state);
      for (int v = 0; v < task.vectors(); ++v) {
        state[v].finish(normalizer, LaneIsRow{});
        state[v].output_factor(normalizer, 0).store(scratch.row + v * W);
      }
      store_transposed<Real, Element>({scratch.output, queries.lanes()}, rows, problem_.width, scratch.row,
                                      problem_.at_row(out_, frame, row));
      store_statistics(normalizer, problem_.flat(frame, row), rows, state);
    }
    if (rows < all) padding(normalizer, frame, row + rows, all - rows);
  }

  void place(const Normalizer& normalizer, const Frame& frame, int row, Row* state) const {
    for (int v = 0; v < kVectors; ++v)
      normalizers::place(normalizer, state[v], 0, Value(Real(frame.i(row + v * W))) + iota<Real>());
  }

  /// Rows that keep nothing: what the normalizer says of a row that saw no score.
  void padding(const Normalizer& normalizer, const Frame& frame, int row, int rows) const {
    zero_rows<Element>(rows, problem_.width, problem_.at_row(out_, frame, row));
    Row state[kVectors];
    place(normalizer, frame, row, state);
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (Normalizer::kScoreSweeps)
        while (state[v].refine(normalizer, LaneIsRow{})) {
        }
      state[v].finish(normalizer, LaneIsRow{});
    }
    store_statistics(normalizer, problem_.flat(frame, row), rows, state);
  }

  /// Every row as if it kept nothing; the tasks write over those of packed sequences.
  void empty_tensors() const {
    for (int head = 0; head < problem_.heads; ++head) {
      Frame frame;
      frame.head = head;
      for (int row = 0; row < problem_.total_queries; row += kTile)
        padding(normalizers::of_head(normalizer_, head), frame, row, clamp_to(problem_.total_queries - row, 0, kTile));
    }
  }

  void store_statistics(const Normalizer& normalizer, int64_t flat, int rows, const Row* state) const {
    for (int r = 0; r < rows; r += W) {
      const int count = rows - r < W ? rows - r : W;
      store_lanes(state[r / W].statistic(normalizer, 0), count, statistic_ + flat + r);
      for (int s = 0; s < Normalizer::kSaved; ++s)
        store_lanes(state[r / W].saved(0, s), count, saved_ + s * problem_.plane() + flat + r);
    }
  }

  static void store_lanes(Value x, int count, Real* to) {
    for (int l = 0; l < count; ++l) to[l] = x.lanes[l];
  }

  Walk walk(const Task& task) const {
    return Walk(pattern_, task.frame, task.row, task.row + task.rows, task.frame.num_keys, kTile);
  }

  /// Rows of k or v of the walk's tile, as Real.
  Matrix<const Real> key_rows(const Heads<Element>& tensor, const Task& task, const Walk& at, Real* scratch) const {
    return real_rows<Real, Element>(problem_.at_column(tensor, task.frame, at.begin()), at.end() - at.begin(),
                                    problem_.width, 1, scratch);
  }

  /// Masked scores [key][query] of the walk's tile, the index-th of this task.
  Real* scores(Task& task, const Walk& at, int index) const {
    Real* to = task.scratch.panel + (index < kPanelTiles ? index : kPanelTiles) * int64_t(kTile) * kTile;
    if (index < task.computed) return to;
    if (index < kPanelTiles) task.computed = index + 1;
    task.queries.times(key_rows(problem_.k, task, at, task.scratch.keys), at.end() - at.begin(), to);
    const Matrix<Real> tile{to, task.queries.lanes()};
    if constexpr (normalizers::kHasBias<Normalizer>)
      add_bias<Lanes::queries>(task.normalizer.bias(), task.normalizer.bias_count(), Real(1 / problem_.scale.magnitude),
                               task.frame, at.box(), tile);
    if (at.state() == TileState::partial) mask_tile<Lanes::queries>(pattern_, task.frame, at.box(), tile);
    return to;
  }

  static Scores column(const Task& task, Real* scores, const Walk& at, int v) {
    return {scores + v * W, task.queries.lanes(), at.end() - at.begin(), at.begin()};
  }

  void score_sweeps(Task& task, Row* state) const {
    bool again[kVectors], any = true;
    for (int v = 0; v < kVectors; ++v) again[v] = v < task.vectors();
    while (any) {
      int index = 0;
      for (Walk at = walk(task); !at.done(); at.advance(), ++index) {
        Real* tile = scores(task, at, index);
        for (int v = 0; v < task.vectors(); ++v) {
          if (!again[v]) continue;
          Scores fragment = column(task, tile, at, v);
          state[v].observe(task.normalizer, fragment);
        }
      }
      any = false;
      for (int v = 0; v < task.vectors(); ++v) {
        again[v] = again[v] && state[v].refine(task.normalizer, LaneIsRow{});
        any = any || again[v];
      }
    }
  }

  void output_sweep(Task& task, Row* state) const {
    const int lanes = task.queries.lanes(), width = problem_.width;
    Start start = Start::zero;
    int index = 0;
    for (Walk at = walk(task); !at.done(); at.advance(), ++index) {
      Real* tile = scores(task, at, index);
      for (int v = 0; v < task.vectors(); ++v) {
        Scores fragment = column(task, tile, at, v);
        Value rescale[1] = {Value(Real(1))};
        if constexpr (Normalizer::kRescales) state[v].meet(task.normalizer, fragment, rescale, LaneIsRow{});
        state[v].weigh(task.normalizer, fragment);
        rescale[0].store(task.scratch.row + v * W);
      }
      const int count = at.end() - at.begin();
      Matrix<const Real> values = key_rows(problem_.v, task, at, task.scratch.values);
      // The weight 0 of a masked score does not silence a NaN or inf.
      if (at.state() == TileState::partial && !all_finite(values, count, width))
        values = without_rows(values, count, width, kept_columns(pattern_, task.frame, at.box()), task.scratch.keys);
      multiply<Real>(width, lanes, count, {values.data, 1, values.stride}, {tile, lanes}, {task.scratch.output, lanes},
                     start, task.scratch.row);
      start = Normalizer::kRescales ? Start::rescale : Start::add;
    }
    if (start == Start::zero) zero_rows<Real>(width, lanes, {task.scratch.output, lanes});
  }

  const Pattern& pattern_;
  Problem<Element> problem_;
  Normalizer normalizer_;
  Heads<Element> out_;
  Real *statistic_, *saved_;
};

/// The attention of args under `pattern`, on execution.parallel's threads.
template <class Pattern, class Normalizer, class Real, class Element>
Status forward(const Pattern& pattern, const ForwardArguments& args, const Execution& execution) {
  return Forward<Pattern, Normalizer, Real, Element>(pattern, args).run(execution.parallel);
}

}  // namespace cpu
SPLASH_NAMESPACE_END
