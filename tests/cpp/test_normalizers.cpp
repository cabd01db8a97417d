// Normalizers by themselves. A row that is spread over four threads, as on a GPU, gives what it gives in one; midpoints
// in the order of floats; and the CPU mainloops call the optional hooks.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "problem.hpp"
#include "splash/cpu/backward.hpp"
#include "splash/cpu/forward.hpp"
#include "splash/normalizers/elastic.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax_sink.hpp"
#include "splash/normalizers/top_k.hpp"
#include "splash/patterns/sliding_window.hpp"

namespace {

using namespace splash;
using namespace splash::normalizers;

constexpr int kTileColumns = 16;
constexpr float kMasked = -math::kInfinity<float>;

/// One row's columns of a tile, or those that one of four threads holds: pairs in turn, as in a wgmma accumulator.
struct Part {
  std::vector<float> values;
  std::vector<int> indices;

  int columns() const { return int(values.size()); }
  float get(int, int c) const { return values[c]; }
  void set(int, int c, float x) { values[c] = x; }
  float column(int c) const { return float(indices[c]); }
};

Part part_of(const std::vector<float>& row, int begin, int thread, int threads) {
  Part part;
  for (int c = begin; c < begin + kTileColumns; ++c) {
    if (threads > 1 && c / 2 % threads != thread) continue;
    part.values.push_back(c < int(row.size()) ? row[c] : kMasked);
    part.indices.push_back(c);
  }
  return part;
}

/// What the threads of a row tell each other.
class Exchange {
 public:
  explicit Exchange(int threads) : values_(threads), barrier_(threads) {}
  template <class Combine>
  float all(int thread, float value, Combine combine) {
    values_[thread] = value;
    barrier_.arrive_and_wait();
    float result = values_[0];
    for (size_t t = 1; t < values_.size(); ++t) result = combine(result, values_[t]);
    barrier_.arrive_and_wait();
    return result;
  }

 private:
  std::vector<float> values_;
  std::barrier<> barrier_;
};

struct Reduce {
  Exchange& exchange;
  int thread;
  float max(float x) const {
    return exchange.all(thread, x, [](float a, float b) { return std::max(a, b); });
  }
  float sum(float x) const {
    return exchange.all(thread, x, [](float a, float b) { return a + b; });
  }
};

struct Result {
  std::vector<float> weights, ds;
  float statistic = 0, delta = 0, parameter = 0;
  std::vector<float> saved;
};

template <class N>
void work(const N& n, const std::vector<float>& row, const std::vector<float>& dp, float output_dot, int threads,
          Reduce reduce, Result& result) {
  const int thread = reduce.thread;
  const float i = float(row.size()) + 2;
  const auto each_tile = [&](const auto& body) {
    for (int begin = 0; begin < int(row.size()); begin += kTileColumns) {
      Part scores = part_of(row, begin, thread, threads), grads = part_of(dp, begin, thread, threads);
      body(scores, grads);
    }
  };
  typename N::template Rows<float, 1> rows;
  place(n, rows, 0, i);
  if constexpr (N::kScoreSweeps) {
    do each_tile([&](Part& scores, Part&) { rows.observe(n, scores); });
    while (rows.refine(n, reduce));
  }
  std::vector<Part> done;
  each_tile([&](Part& scores, Part&) {
    float rescale[1] = {1};
    if constexpr (N::kRescales) rows.meet(n, scores, rescale, reduce);
    rows.weigh(n, scores);
    for (Part& earlier : done)
      for (float& weight : earlier.values) weight *= rescale[0];
    done.push_back(scores);
  });
  rows.finish(n, reduce);
  const auto store = [&](const Part& part, float factor, std::vector<float>& to) {
    for (int c = 0; c < part.columns(); ++c)
      if (part.indices[c] < int(row.size())) to[part.indices[c]] = factor * part.values[c];
  };
  for (const Part& part : done) store(part, rows.output_factor(n, 0), result.weights);

  typename N::template Gradient<float, 1> gradient;
  gradient.load(n, 0, rows.statistic(n, 0), [&](int s) { return rows.saved(0, s); });
  place(n, gradient, 0, i);
  if constexpr (N::kDeltaSweep) each_tile([&](Part& scores, Part& grads) { gradient.observe(n, scores, grads); });
  gradient.close(n, 0, output_dot, 0.3f, reduce);
  each_tile([&](Part& scores, Part& grads) {
    gradient.apply(n, scores, grads);
    store(grads, 1, result.ds);
  });
  if (thread > 0) return;
  result.statistic = rows.statistic(n, 0);
  for (int s = 0; s < N::kSaved; ++s) result.saved.push_back(rows.saved(0, s));
  if (kept_none<N>(result.statistic)) return;  // the mainloops ask such a row for nothing more
  result.delta = gradient.delta[0];
  if constexpr (kRowGradientsOf<N> > 0) result.parameter = gradient.row_gradient(n, 0, 0);
}

template <class N>
Result run(const N& n, const std::vector<float>& row, const std::vector<float>& dp, float output_dot, int threads) {
  Result result;
  result.weights.resize(row.size());
  result.ds.resize(row.size());
  Exchange exchange(threads);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t)
    pool.emplace_back([&, t] { work(n, row, dp, output_dot, threads, Reduce{exchange, t}, result); });
  for (std::thread& thread : pool) thread.join();
  return result;
}

bool close(float a, float b) { return a == b || std::abs(a - b) <= 2e-5f * (1 + std::abs(b)); }

bool close(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) { return close(x, y); });
}

/// A masked score has no dS, however bad dP and the row's delta are.
template <class N>
void check_masked(const char* name, const N& n, const std::vector<float>& row, const Result& found) {
  typename N::template Gradient<float, 1> gradient;
  const auto saved = [&](int s) { return found.saved[s]; };
  gradient.load(n, 0, found.statistic, saved);
  place(n, gradient, 0, float(row.size()) + 2);
  gradient.delta[0] = NAN;
  Part scores, dp;
  for (int c = 0; c < int(row.size()); ++c) {
    scores.values.push_back(row[c]);
    scores.indices.push_back(c);
  }
  dp = scores;
  for (float& x : dp.values) x = NAN;
  gradient.apply(n, scores, dp);
  for (size_t c = 0; c < row.size(); ++c)
    check::that(row[c] != kMasked || (scores.values[c] == 0 && dp.values[c] == 0), "%s: dS of a masked score is %g",
                name, dp.values[c]);
}

template <class N>
void check_spread(const char* name, const NormalizerSpec& spec) {
  const N n = of_head(N::from(spec, 0.5), 1);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 40; ++trial) {
    const int length = 1 + trial * 5;
    std::vector<float> row(length), dp(length);
    for (float& x : row) {
      x = 3 * normal(random);
      if (trial % 2) x = std::round(x);  // many ties
      if (trial % 5 == 4) x = 1;         // nothing but ties
      if (random() % 4 == 0) x = kMasked;
      if (trial % 10 == 7) x = kMasked;  // nothing is kept
    }
    for (float& x : dp) x = normal(random);
    const Result plain = run(n, row, dp, 0.7f, 1), spread = run(n, row, dp, 0.7f, 4);
    bool same = close(plain.weights, spread.weights) && close(plain.ds, spread.ds) && close(plain.saved, spread.saved);
    same = same && close(plain.statistic, spread.statistic) && close(plain.delta, spread.delta);
    check::that(same && close(plain.parameter, spread.parameter), "%s: trial %d differs over four threads", name,
                trial);
    check_masked(name, n, row, plain);
    double total = 0;
    for (int c = 0; c < length; ++c) {
      total += plain.weights[c];
      check::that(row[c] != kMasked || (plain.weights[c] == 0 && plain.ds[c] == 0), "%s: a masked key counts", name);
    }
    check::that(std::isfinite(total), "%s: weights of trial %d", name, trial);
  }
}

void check_between() {
  const float ends[] = {-INFINITY, -3e38f, -1.0f, -1e-40f, -1e-45f, -0.0f, 0.0f, 1e-45f, 2e-38f, 1.0f, 1.5f, INFINITY};
  for (const float low : ends) {
    for (const float high : ends) {
      if (!(low < high)) continue;
      float a = low, b = high;
      int steps = 0;
      for (; steps < 40; ++steps) {
        const float middle = math::between(a, b);
        const double wide = math::between(double(a), double(b));
        check::that(a <= middle && middle <= b && a <= wide && wide <= b, "between(%g, %g) is %g", a, b, middle);
        const auto lanes = math::between(cpu::Simd<float>(a), cpu::Simd<float>(b)).lanes;
        check::that(std::memcmp(&lanes[0], &middle, 4) == 0, "between(%g, %g) differs in vectors", a, b);
        if (middle == a || middle == b) break;
        (steps % 3 ? a : b) = middle;
      }
      check::that(steps <= 33, "between(%g, %g) takes %d steps", low, high, steps);
    }
  }
}

struct Alone {
  float max(float x) const { return x; }
  float sum(float x) const { return x; }
};

/// Rows in which midpoints by value find one number after the other: the search still ends within the bits of a float.
void check_passes() {
  for (const float sign : {1.0f, -1.0f}) {
    std::vector<float> row;
    for (int n = -125; n <= 125; ++n) row.push_back(sign * std::ldexp(1.0f, n));
    std::vector<float> sorted = row;
    std::sort(sorted.rbegin(), sorted.rend());
    for (int k = 1; k < int(row.size()); k += 7) {
      Largest<float> search;
      int sweep = 0;
      bool again = true;
      for (; again && sweep < 300; ++sweep) {
        for (const float x : row) sweep == 0 ? search.enter(x) : search.count(x);
        again = search.narrow(sweep, float(k), Alone{});
      }
      check::that(search.low == sorted[k - 1], "number %d of %d is %g", k, int(row.size()), search.low);
      check::that(sweep <= Largest<float>::kMidpoints + 34, "number %d takes %d passes", k, sweep);
    }
  }
}

std::map<std::string, long> calls;

/// Elastic softmax has every optional hook.
struct Counting : Elastic<float> {
  static Counting from(const NormalizerSpec& spec, double scale) { return {Elastic<float>::from(spec, scale)}; }
  Counting of_head(int head) const { return ++calls["of_head"], Counting{Elastic<float>::of_head(head)}; }
  const float* bias() const { return ++calls["bias"], Elastic<float>::bias(); }
  int bias_count() const { return ++calls["bias_count"], Elastic<float>::bias_count(); }

  template <class Value, int R>
  struct Rows : Elastic<float>::Rows<Value, R> {
    void place(const Counting& n, int r, Value i) {
      ++calls["place"];
      Elastic<float>::Rows<Value, R>::place(n, r, i);
    }
  };
  template <class Value, int R>
  struct Gradient : Elastic<float>::Gradient<Value, R> {
    void place(const Counting& n, int r, Value i) {
      ++calls["gradient place"];
      Elastic<float>::Gradient<Value, R>::place(n, r, i);
    }
    Value row_gradient(const Counting& n, int r, int p) const {
      ++calls["row_gradient"];
      return Elastic<float>::Gradient<Value, R>::row_gradient(n, r, p);
    }
  };
};

void check_optional_hooks() {
  Problem problem(150, 170, 0);
  std::vector<float> tau{-1.0f, -0.5f}, bias(2 * 9, 0.25f), grad_tau(2, -7.0f), grad_bias(2 * 9, -7.0f);
  const TensorView taus{tau.data(), DType::float32, 1, {2, 1, 1, 1}, {1, 0, 0, 0}};
  const TensorView biases{bias.data(), DType::float32, 2, {2, 9, 1, 1}, {9, 1, 0, 0}};
  problem.forward.in.normalizer = {0, {}, 2, {taus, biases}};
  problem.backward.in = problem.forward.in;
  for (int p = 0; p < 2; ++p) problem.backward.grad_parameters[p] = problem.forward.in.normalizer.parameters[p];
  problem.backward.grad_parameters[0].data = grad_tau.data();
  problem.backward.grad_parameters[1].data = grad_bias.data();
  const patterns::SlidingWindow window{70, 0};
  bool ok = cpu::forward<patterns::SlidingWindow, Counting, float, float>(window, problem.forward, {}).ok();
  for (const char* hook : {"of_head", "bias", "bias_count", "place"})
    check::that(calls[hook] > 0, "the forward never calls %s", hook);
  calls.clear();
  ok = ok && cpu::backward<patterns::SlidingWindow, Counting, float, float>(window, problem.backward, {}).ok();
  for (const char* hook : {"of_head", "bias", "bias_count", "gradient place", "row_gradient"})
    check::that(calls[hook] > 0, "the backward never calls %s", hook);
  check::that(ok, "a call failed");
  for (const std::vector<float>* gradient : {&grad_tau, &grad_bias})
    for (const float x : *gradient) check::that(x != -7.0f && x != 0.0f, "a parameter's gradient is %g", x);
}

/// One row over some keys in one thread: its statistic, and sum p v with v_j = values[j], on top of an earlier output.
struct Partial {
  float lse = kMasked, output = 0;
};

template <class N>
Partial attend(const N& n, const std::vector<float>& row, const std::vector<float>& values, const Partial* earlier) {
  Exchange exchange(1);
  const Reduce reduce{exchange, 0};
  typename N::template Rows<float, 1> rows;
  float output = 0;
  if (earlier) {
    rows.resume(0, earlier->lse, true);
    output = earlier->output;
  }
  for (int begin = 0; begin < int(row.size()); begin += kTileColumns) {
    Part scores = part_of(row, begin, 0, 1);
    float rescale[1] = {1};
    rows.meet(n, scores, rescale, reduce);
    rows.weigh(n, scores);
    output *= rescale[0];
    for (int c = 0; c < kTileColumns && begin + c < int(row.size()); ++c)
      output += scores.values[size_t(c)] * values[size_t(begin + c)];
  }
  rows.finish(n, reduce);
  return {rows.statistic(n, 0), output * rows.output_factor(n, 0)};
}

/// A row that goes on from other keys gives what it gives over all of them; the sink counts with the last ones.
void check_resumed() {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  float sinks[] = {0.0f, 1.5f, 40.0f};
  for (const float shift : {0.0f, 300.0f, -300.0f})
    for (const int cut : {0, 16, 48, 80})
      for (int head = 0; head < 3; ++head) {
        std::vector<float> row, values;
        for (int j = 0; j < 80; ++j) {
          row.push_back(4 * normal(random) + (j < cut ? shift : 0));
          values.push_back(normal(random));
        }
        NormalizerSpec spec;
        spec.parameters[0].data = sinks;
        const auto plain = SoftmaxSink<float>::from({}, 1.0), sunk = SoftmaxSink<float>::from(spec, 1.0).of_head(head);
        const auto of = [&](const std::vector<float>& all, int begin, int end) {
          return std::vector<float>(all.begin() + begin, all.begin() + end);
        };
        const Partial whole = attend(sunk, row, values, nullptr);
        const Partial first = attend(plain, of(row, 0, cut), of(values, 0, cut), nullptr);
        const Partial both = attend(sunk, of(row, cut, 80), of(values, cut, 80), &first);
        check::that(std::abs(both.lse - whole.lse) <= 1e-4f && std::abs(both.output - whole.output) <= 1e-4f,
                    "cut at %d: %g and %g, expected %g and %g", cut, both.lse, both.output, whole.lse, whole.output);
      }
}

}  // namespace

int main() {
  float sinks[] = {0.0f, 1.5f}, taus[] = {0.0f, -1.0f}, none[] = {0.0f};
  NormalizerSpec sink, elastic, top_softmax, top_entmax, alpha;
  sink.parameters[0].data = sinks;
  elastic.parameters[0].data = taus;
  elastic.parameters[1].data = none;
  elastic.parameters[1].shape[1] = 0;
  top_softmax.num_floats = 1, top_softmax.floats[0] = 6;
  top_entmax.num_floats = 2, top_entmax.floats[0] = 1.5, top_entmax.floats[1] = 6;
  alpha.num_floats = 1, alpha.floats[0] = 1.5;
  check_spread<Softmax<float>>("softmax", {});
  check_spread<Entmax<float, SquareExponent>>("entmax15", alpha);
  check_spread<SoftmaxSink<float>>("softmax_sink", sink);
  check_spread<Elastic<float>>("elastic", elastic);
  check_spread<TopK<Softmax<float>>>("top_k_softmax", top_softmax);
  check_spread<TopK<Entmax<float, SquareExponent>>>("top_k_entmax15", top_entmax);
  check_spread<TopK<Entmax<float, GeneralExponent>>>("top_k_entmax", top_entmax);
  check_resumed();
  check_between();
  check_passes();
  check_optional_hooks();
  return check::summary("test_normalizers");
}
