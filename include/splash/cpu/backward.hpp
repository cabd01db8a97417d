// Attention on the host, backward, for S = scale Q K^T, P = normalize(S), O = P V:
//   dV = P^T dO,  dP = dO V^T,  dS from P, dP and delta,  dQ = scale dS K,  dK = scale dS^T Q.
//
// delta.hpp comes first, then the walk here: key-major, five products a tile. SIMD lanes are keys in S and dP (K^T and
// V^T are packed once a tile of keys) and the head dimension in the other three, so Q, dO and K are read as they are.
// A task owns the keys of one key/value head. Where there are too few of those for the threads, query heads and then
// tiles of keys are dealt out; the sums of the parts are added in a fixed order, so results do not vary from run to
// run.
#pragma once

#include <initializer_list>

#include "splash/cpu/delta.hpp"
#include "splash/cpu/hooks.hpp"
#include "splash/patterns/transpose.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

template <class Pattern, class Normalizer, class Real, class Element>
class Backward {
  using Value = Simd<Real>;
  using Gradient = typename Normalizer::template Gradient<Value, 1>;
  using Transposed = patterns::Transposed<Pattern>;
  using Walk = patterns::TileWalk<Transposed>;
  using Part = Fragment<Real, Lanes::keys>;
  static_assert(normalizers::backward_calls_all_hooks<Normalizer, kBackwardHooks>());
  static_assert(patterns::hooks_are_spelled_right<Pattern>());
  static constexpr int W = Value::kLanes;
  static constexpr int kRowGradients = normalizers::kRowGradientsOf<Normalizer>;
  static constexpr bool kBias = normalizers::kHasBias<Normalizer>;

 public:
  Backward(const Pattern& pattern, const BackwardArguments& args, const Parallel& parallel)
      : pattern_(pattern),
        transposed_{pattern},
        args_(args),
        problem_(args.in),
        row_(round_up(problem_.width, W)),
        normalizer_(Normalizer::from(args.in.normalizer, problem_.scale.magnitude)),
        grad_out_(Heads<Element>::from(args.grad_out)),
        grad_q_(Heads<Element>::from(args.grad_q)),
        grad_k_(Heads<Element>::from(args.grad_k)),
        grad_v_(Heads<Element>::from(args.grad_v)),
        parallel_(parallel) {
    const int64_t owners = int64_t(problem_.batch) * problem_.kv_heads;
    const int64_t wanted = owners > 0 ? (worker_count(parallel, int64_t(1) << 30) + owners - 1) / owners : 1;
    head_parts_ = int(wanted < problem_.group() ? wanted : problem_.group());
    const int64_t left = (wanted + head_parts_ - 1) / head_parts_;
    key_parts_ = head_parts_ < problem_.group() ? 1 : clamp_to(int(left), 1, clamp_to(problem_.key_tiles(), 1, kEnd));
    tasks_ = owners * head_parts_ * key_parts_;
  }

  Status run() const {
    const int workers = worker_count(parallel_, tasks_);
    const int64_t bytes = Scratch(nullptr, *this).bytes;
    const int64_t shared = Shared(nullptr, *this).bytes;
    const Buffer memory(shared + bytes * workers);
    if (!memory.data()) return out_of_memory();
    const Shared parts(memory.data(), *this);
    zero(parts.row_gradients, kRowGradients * problem_.plane());
    zero(parts.bias, bias_parts() * bias_count());
    const Status status =
        Delta<Pattern, Normalizer, Real, Element>(pattern_, args_).run(parallel_, parts.delta, parts.row_gradients);
    if (!status.ok()) return status;
    if (!problem_.covers_rows()) zero_heads(grad_q_, problem_.heads, problem_.total_queries);
    if (!problem_.covers_columns()) {
      zero_heads(grad_k_, problem_.kv_heads, problem_.total_keys);
      zero_heads(grad_v_, problem_.kv_heads, problem_.total_keys);
    }
    for_each_task(parallel_, workers, tasks_, [&](int worker, int64_t task) {
      walk_keys(task, parts, Scratch(memory.data() + shared + worker * bytes, *this));
    });
    if (key_parts_ > 1) add_parts(Side::queries, key_parts_, parts.grad_q, Real(scale()), grad_q_);
    if (head_parts_ > 1) {
      add_parts(Side::keys, head_parts_, parts.grad_k, Real(scale()), grad_k_);
      add_parts(Side::keys, head_parts_, parts.grad_v, Real(1), grad_v_);
    }
    for (int p = 0; p < kRowGradients; ++p) sum_rows(parts.row_gradients + p * problem_.plane(), p);
    if constexpr (kBias) sum_bias(parts.bias);
    return {};
  }

 private:
  double scale() const { return problem_.scale.sign * problem_.scale.magnitude; }
  int64_t query_plane() const { return int64_t(problem_.query_tiles()) * kTile * row_; }
  int64_t key_plane() const { return int64_t(problem_.key_tiles()) * kTile * row_; }
  /// One task finishes a tile of keys at once: no need to remember the others.
  bool keys_at_once() const { return problem_.group() == 1; }
  /// The bias is the last parameter; its gradient is summed by batch entry, query head and part of the keys.
  int64_t bias_count() const {
    return kBias ? args_.in.normalizer.parameters[args_.in.normalizer.num_parameters - 1].shape[1] : 0;
  }
  int64_t bias_parts() const { return int64_t(problem_.batch) * problem_.heads * key_parts_; }

  /// What tasks leave for each other. Parts of sums: (B, heads, parts, rows, row).
  struct Shared {
    Real *delta, *grad_q, *grad_k, *grad_v, *row_gradients, *bias;
    int64_t bytes;

    Shared(unsigned char* data, const Backward& self) {
      Arena arena(data);
      const Problem<Element>& problem = self.problem_;
      const int64_t key_sums = self.head_parts_ > 1 ? self.key_plane() * problem.batch * problem.heads : 0;
      const int64_t query_sums = self.query_plane() * problem.batch * problem.heads * self.key_parts_;
      delta = arena.take<Real>(problem.plane());
      row_gradients = arena.take<Real>(kRowGradients * problem.plane());
      bias = arena.take<Real>(self.bias_parts() * self.bias_count());
      grad_q = arena.take<Real>(self.key_parts_ > 1 ? query_sums : 0);
      grad_k = arena.take<Real>(key_sums);
      grad_v = arena.take<Real>(key_sums);
      bytes = arena.bytes();
    }
  };

  /// What a worker keeps to itself.
  struct Scratch {
    Real *keys, *clean, *keys_t, *values_t, *queries, *grads, *scores, *dp, *grad_q, *grad_k, *grad_v;
    int64_t bytes;

    Scratch(unsigned char* data, const Backward& self) {
      Arena arena(data);
      const int64_t tile = int64_t(kTile) * self.row_;
      const int64_t key_sums = self.keys_at_once() ? tile : (self.head_parts_ > 1 ? 0 : self.key_plane());
      for (Real** array : {&keys, &clean, &keys_t, &values_t, &queries, &grads}) *array = arena.take<Real>(tile);
      scores = arena.take<Real>(kTile * kTile);
      dp = arena.take<Real>(kTile * kTile);
      grad_q = arena.take<Real>(self.key_parts_ > 1 ? 0 : self.query_plane());
      grad_k = arena.take<Real>(key_sums);
      grad_v = arena.take<Real>(key_sums);
      bytes = arena.bytes();
    }
  };

  /// What all tiles of a query head have in common.
  struct Head {
    const Frame& frame;
    const Normalizer& normalizer;
    const Shared& parts;
    const Scratch& scratch;
    Real* grad_q;
    Real* bias;  ///< gradient of the bias, reversed
  };

  /// A tile of keys with everything that the tiles of queries need of it.
  struct Keys {
    int begin, count, lanes;  ///< keys that are not padding, rounded up to vectors
    bool finite;              ///< neither NaN nor inf in keys and values
    Matrix<const Real> rows;  ///< K
    Matrix<Real> grad_k, grad_v;
  };

  void walk_keys(int64_t task, const Shared& parts, const Scratch& scratch) const {
    const int key_part = int(task % key_parts_);
    const int head_part = int(task / key_parts_ % head_parts_);
    const int64_t owner = task / key_parts_ / head_parts_;
    const int kv_head = int(owner % problem_.kv_heads), batch = int(owner / problem_.kv_heads);
    const int group = problem_.group();
    const int first = head_part * group / head_parts_, last = (head_part + 1) * group / head_parts_;
    const int64_t key_offset = (owner * head_parts_ + head_part) * key_plane();
    Real* grad_k = head_parts_ > 1 ? parts.grad_k + key_offset : scratch.grad_k;
    Real* grad_v = head_parts_ > 1 ? parts.grad_v + key_offset : scratch.grad_v;
    for (int member = first; member < last; ++member) {
      const int head = kv_head * group + member;
      const Frame frame = problem_.frame(batch, head);
      const Normalizer normalizer = normalizers::of_head(normalizer_, head);
      const int64_t part = (int64_t(batch) * problem_.heads + head) * key_parts_ + key_part;
      Real* grad_q = key_parts_ > 1 ? parts.grad_q + part * query_plane() : scratch.grad_q;
      zero(grad_q, problem_.rows(frame) * row_);
      const Head at{frame, normalizer, parts, scratch, grad_q, parts.bias + part * bias_count()};
      for (int tile = key_part; tile * kTile < problem_.columns(frame); tile += key_parts_) {
        const int64_t offset = keys_at_once() && head_parts_ == 1 ? 0 : int64_t(tile) * kTile * row_;
        const Matrix<Real> dk{grad_k + offset, row_}, dv{grad_v + offset, row_};
        if (member == first) {
          zero_rows<Real>(kTile, row_, dk);
          zero_rows<Real>(kTile, row_, dv);
        }
        key_tile(at, tile * kTile, dk, dv);
        if (member + 1 == last && head_parts_ == 1) {
          const int rows = clamp_to(problem_.columns(frame) - tile * kTile, 0, kTile);
          store_rows<Real, Element>(dk, rows, problem_.width, Real(scale()),
                                    problem_.at_column(grad_k_, frame, tile * kTile));
          store_rows<Real, Element>(dv, rows, problem_.width, Real(1),
                                    problem_.at_column(grad_v_, frame, tile * kTile));
        }
      }
      if (key_parts_ == 1) {
        store_rows<Real, Element>({grad_q, row_}, problem_.rows(frame), problem_.width, Real(scale()),
                                  problem_.at_row(grad_q_, frame, 0));
      }
    }
  }

  void key_tile(const Head& head, int begin, Matrix<Real> grad_k, Matrix<Real> grad_v) const {
    const Frame& frame = head.frame;
    const Scratch& scratch = head.scratch;
    const int count = clamp_to(frame.num_keys - begin, 0, kTile), width = problem_.width;
    if (count == 0) return;
    Walk at(transposed_, frame, begin, begin + count, frame.num_queries, kTile);
    if (at.done()) return;
    const auto k = problem_.at_column(problem_.k, frame, begin), v = problem_.at_column(problem_.v, frame, begin);
    const int lanes = round_up(count, W);
    load_transposed<Real, Element>(k, count, width, Real(problem_.scale.sign), {scratch.keys_t, lanes}, lanes);
    load_transposed<Real, Element>(v, count, width, Real(1), {scratch.values_t, lanes}, lanes);
    const bool finite = all_finite<Real>({scratch.keys_t, lanes}, width, lanes) &&
                        all_finite<Real>({scratch.values_t, lanes}, width, lanes);
    const Keys keys{begin,  count, lanes, finite, real_rows<Real, Element>(k, count, width, W, scratch.keys),
                    grad_k, grad_v};
    for (; !at.done(); at.advance()) tile_pair(head, keys, at);
  }

  void tile_pair(const Head& head, const Keys& keys, const Walk& at) const {
    const Frame& frame = head.frame;
    const Scratch& scratch = head.scratch;
    const int row = at.begin(), rows = at.end() - row, width = problem_.width, lanes = keys.lanes;
    auto queries = real_rows<Real, Element>(problem_.at_row(problem_.q, frame, row), rows, width, W, scratch.queries);
    auto grads = real_rows<Real, Element>(problem_.at_row(grad_out_, frame, row), rows, width, W, scratch.grads);
    // Neither the weight 0 of a row that kept nothing nor its dS silences a NaN or inf.
    if (const uint64_t live = live_rows(frame, row, rows); live != patterns::bits_between(0, rows - 1)) {
      queries = without_rows(queries, rows, row_, live, scratch.queries);
      grads = without_rows(grads, rows, row_, live, scratch.grads);
    }
    const Matrix<Real> scores{scratch.scores, lanes}, dp{scratch.dp, lanes};
    const Box box{row, row + rows, keys.begin, keys.begin + keys.count};
    multiply<Real>(rows, lanes, width, {queries.data, queries.stride, 1}, {scratch.keys_t, lanes}, scores, Start::zero);
    multiply<Real>(rows, lanes, width, {grads.data, grads.stride, 1}, {scratch.values_t, lanes}, dp, Start::zero);
    if constexpr (kBias)
      add_bias<Lanes::keys>(head.normalizer.bias(), head.normalizer.bias_count(), Real(1 / problem_.scale.magnitude),
                            frame, box, scores);
    Matrix<const Real> key_rows = keys.rows;
    if (at.state() == TileState::partial) {
      mask_tile<Lanes::keys>(pattern_, frame, box, scores);
      if (!keys.finite)
        key_rows = without_rows(key_rows, keys.count, row_, kept_columns(pattern_, frame, box), scratch.clean);
    }
    for (int r = 0; r < rows; ++r)
      for (int l = keys.count; l < lanes; ++l) scores.data[r * scores.stride + l] = -math::kInfinity<Real>;
    apply(head, box, lanes, scores, dp);
    if constexpr (kBias) collect_bias<Real>(dp, int(bias_count()), frame, box, head.bias);
    multiply<Real>(keys.count, row_, rows, {scores.data, 1, lanes}, grads, keys.grad_v, Start::add);
    multiply<Real>(keys.count, row_, rows, {dp.data, 1, lanes}, queries, keys.grad_k, Start::add);
    multiply<Real>(rows, row_, keys.count, {dp.data, lanes, 1}, key_rows, {head.grad_q + int64_t(row) * row_, row_},
                   Start::add);
  }

  /// Scores become weights, dP becomes dS.
  [[gnu::noinline]] void apply(const Head& head, const Box& box, int lanes, Matrix<Real> scores,
                               Matrix<Real> dp) const {
    const int64_t flat = problem_.flat(head.frame, box.row_begin), plane = problem_.plane();
    const Real* statistic = static_cast<const Real*>(args_.statistic.data) + flat;
    const Real* saved = static_cast<const Real*>(args_.saved.data) + flat;
    const Real* delta = head.parts.delta + flat;
    for (int r = 0; r < box.row_end - box.row_begin; ++r) {
      Gradient gradient;
      gradient.load(head.normalizer, 0, Value(statistic[r]), [&](int s) { return Value(saved[s * plane + r]); });
      normalizers::place(head.normalizer, gradient, 0, Value(Real(head.frame.i(box.row_begin + r))));
      gradient.delta[0] = Value(delta[r]);
      Part score_row{scores.data + r * scores.stride, W, lanes / W, box.column_begin};
      Part dp_row{dp.data + r * dp.stride, W, lanes / W, box.column_begin};
      gradient.apply(head.normalizer, score_row, dp_row);
    }
  }

  /// The rows that kept something, as bits.
  uint64_t live_rows(const Frame& frame, int row, int rows) const {
    const Real* statistic = static_cast<const Real*>(args_.statistic.data) + problem_.flat(frame, row);
    uint64_t live = 0;
    for (int r = 0; r < rows; ++r) live |= uint64_t(!normalizers::kept_none<Normalizer>(statistic[r])) << r;
    return live;
  }

  enum class Side { queries, keys };

  /// to = factor * the sum over the parts, the first part first.
  void add_parts(Side side, int parts, Real* sums, Real factor, const Heads<Element>& to) const {
    const bool queries = side == Side::queries;
    const int heads = queries ? problem_.heads : problem_.kv_heads;
    const int tiles = queries ? problem_.query_tiles() : problem_.key_tiles();
    const int64_t plane = int64_t(tiles) * kTile * row_, tasks = int64_t(problem_.batch) * heads * tiles;
    for_each_task(parallel_, worker_count(parallel_, tasks), tasks, [&](int, int64_t task) {
      const int64_t owner = task / tiles;
      const int row = int(task % tiles) * kTile, head = int(owner % heads);
      const Frame frame = problem_.frame(int(owner / heads), queries ? head : head * problem_.group());
      const int count = clamp_to((queries ? problem_.rows(frame) : problem_.columns(frame)) - row, 0, kTile);
      Real* sum = sums + owner * parts * plane + int64_t(row) * row_;
      for (int part = 1; part < parts; ++part)
        for (int64_t n = 0; n < int64_t(count) * row_; n += W)
          (Value::load(sum + n) + Value::load(sum + part * plane + n)).store(sum + n);
      store_rows<Real, Element>({sum, row_}, count, problem_.width, factor,
                                queries ? problem_.at_row(to, frame, row) : problem_.at_column(to, frame, row));
    });
  }

  static void zero(Real* data, int64_t count) { __builtin_memset(data, 0, sizeof(Real) * count); }

  /// Packed tensors, whole.
  void zero_heads(const Heads<Element>& tensor, int heads, int rows) const {
    for (int head = 0; head < heads; ++head) zero_rows<Element>(rows, problem_.width, tensor.rows(0, head, 0));
  }

  /// The gradient of a parameter that each row has a share of: (Hq,).
  void sum_rows(const Real* shares, int parameter) const {
    Real* to = static_cast<Real*>(args_.grad_parameters[parameter].data);
    const int64_t entries = problem_.packed ? 1 : problem_.batch, rows = problem_.total_queries;
    for (int head = 0; head < problem_.heads; ++head) {
      double sum = 0;
      for (int64_t entry = 0; entry < entries; ++entry)
        for (int64_t row = 0; row < rows; ++row) sum += double(shares[(entry * problem_.heads + head) * rows + row]);
      to[head] = Real(sum);
    }
  }

  /// The gradient of the bias: (Hq, count).
  void sum_bias(const Real* reversed) const {
    const int64_t count = bias_count();
    Real* to = static_cast<Real*>(args_.grad_parameters[args_.in.normalizer.num_parameters - 1].data);
    for (int64_t head = 0; head < problem_.heads; ++head)
      for (int64_t t = 0; t < count; ++t) {
        double sum = 0;
        for (int64_t entry = 0; entry < problem_.batch; ++entry)
          for (int64_t part = 0; part < key_parts_; ++part)
            sum += double(reversed[((entry * problem_.heads + head) * key_parts_ + part + 1) * count - 1 - t]);
        to[head * count + t] = Real(sum);
      }
  }

  const Pattern& pattern_;
  Transposed transposed_;
  const BackwardArguments& args_;
  Problem<Element> problem_;
  int64_t row_;  ///< length of a row of gradients, a multiple of the lanes
  Normalizer normalizer_;
  Heads<Element> grad_out_, grad_q_, grad_k_, grad_v_;
  const Parallel& parallel_;
  int head_parts_, key_parts_;  ///< into how many parts the query heads and the tiles of keys are dealt out
  int64_t tasks_;
};

/// The gradients of args under `pattern`, on execution.parallel's threads. Every element of grad_q, grad_k and grad_v
/// is written, and always in the same order of additions.
template <class Pattern, class Normalizer, class Real, class Element>
Status backward(const Pattern& pattern, const BackwardArguments& args, const Execution& execution) {
  return Backward<Pattern, Normalizer, Real, Element>(pattern, args, execution.parallel).run();
}

}  // namespace cpu
SPLASH_NAMESPACE_END
