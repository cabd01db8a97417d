// What a GPU's backward knows of a row, two numbers, against the Gradient of the same normalizer.
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.hpp"
#include "splash/normalizers/elastic.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax_sink.hpp"
#include "splash/normalizers/top_k.hpp"

namespace {

using namespace splash;
using namespace splash::normalizers;

static_assert(kOneSweepGradient<Softmax<float>> && kOneSweepGradient<SoftmaxSink<float>>);
static_assert(!kOneSweepGradient<Entmax<float, SquareExponent>> && !kOneSweepGradient<Elastic<float>>);
static_assert(!kOneSweepGradient<TopK<Softmax<float>>>);

constexpr double kScale = 0.5;
constexpr float kNothing = -math::kInfinity<float>;

/// One row in one thread.
struct Part {
  std::vector<float> values;

  int columns() const { return int(values.size()); }
  float get(int, int c) const { return values[size_t(c)]; }
  void set(int, int c, float x) { values[size_t(c)] = x; }
  float column(int c) const { return float(c); }
};

struct Alone {
  float max(float x) const { return x; }
  float sum(float x) const { return x; }
};

struct Row {
  std::vector<float> scores, dp;
  float dstatistic = 0;
};

double log_sum_exp(const Row& row) {
  double highest = -INFINITY, sum = 0;
  for (const float score : row.scores) highest = std::max(highest, kScale * score);
  for (const float score : row.scores) sum += std::exp(kScale * score - highest);
  return highest == -INFINITY ? highest : highest + std::log(sum);
}

/// sum P dP, where the keys have `share` of the denominator.
double output_dot_of(const Row& row, double lse, double share) {
  double dot = 0;
  for (size_t c = 0; c < row.scores.size(); ++c)
    if (row.scores[c] != kNothing) dot += share * std::exp(kScale * row.scores[c] - lse) * row.dp[c];
  return dot;
}

template <class N>
void check_row(const char* name, const N& n, const Row& row, double sink) {
  const double lse = log_sum_exp(row), share = lse == -INFINITY ? 1 : 1 / (1 + std::exp(sink - lse));
  const float statistic = float(lse), output_dot = float(output_dot_of(row, lse, share));

  typename N::template Gradient<float, 1> gradient;
  Part weights{row.scores}, ds{row.dp};
  gradient.load(n, 0, statistic, [](int) { return 0.0f; });
  if constexpr (N::kDeltaSweep) gradient.observe(n, weights, ds);
  gradient.close(n, 0, output_dot, row.dstatistic, Alone{});
  gradient.apply(n, weights, ds);

  const bool none = lse == -INFINITY;
  const float bad = none ? NAN : 0;  // whatever arrives at such a row
  const RowNumbers<float> numbers = row_numbers(n, statistic, output_dot + bad, row.dstatistic + bad);
  check::that(!none || numbers.delta == 0, "%s: a row that kept nothing has delta %g", name, numbers.delta);
  // Exponents of 2 are rounded in proportion to themselves.
  const double exponents = none ? 0 : std::abs(lse) + std::clamp(sink - lse, 0.0, 42.0);
  const float near = 1e-5f + 4e-7f * float(exponents);
  for (size_t c = 0; c < row.scores.size(); ++c) {
    const float weight = n.weight_of(row.scores[c], numbers.shift);
    const float dscore = n.dscore_of(weight, row.dp[c], numbers.delta);
    const float size = weights.values[c] * (std::abs(row.dp[c]) + std::abs(output_dot)) + std::abs(ds.values[c]);
    if (row.scores[c] == kNothing || none)
      check::that(weight == 0 && dscore == 0, "%s: a masked key has weight %g and dS %g", name, weight, dscore);
    check::that(std::abs(weight - weights.values[c]) <= near * weights.values[c] + 0x1p-59f, "%s: weight %g, not %g",
                name, weight, weights.values[c]);
    check::that(std::abs(dscore - ds.values[c]) <= near * size + 0x1p-50f, "%s: sink %g, lse %g: dS %g, not %g", name,
                sink, lse, dscore, ds.values[c]);
  }
  if constexpr (kRowGradientsOf<N> > 0) {
    if (none) return;
    const float of_sink = n.row_gradient(statistic, output_dot), wanted = gradient.row_gradient(n, 0, 0);
    check::that(std::abs(of_sink - wanted) <= near * (std::abs(wanted) + share) + 1e-30,
                "%s: sink %g: its gradient is %g, not %g", name, sink, of_sink, wanted);
  }
}

std::vector<Row> rows() {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<Row> all;
  for (int trial = 0; trial < 60; ++trial) {
    Row row;
    const float size = trial % 3 == 2 ? 50.0f : 3.0f, shift = trial % 4 == 3 ? 200.0f : 0.0f;
    for (int c = 0; c < 1 + trial * 3; ++c) {
      const bool masked = random() % 4 == 0 || trial % 10 == 7;  // of some rows all
      row.scores.push_back(masked ? kNothing : size * normal(random) + (trial % 2 ? shift : -shift));
      row.dp.push_back(normal(random));
    }
    row.dstatistic = trial % 5 == 0 ? 0.0f : normal(random);
    all.push_back(row);
  }
  return all;
}

}  // namespace

int main() {
  // Sinks that the keys do not feel, that share with them, and that leave them less than 2^-60 or any float.
  float sinks[] = {kNothing, -3e4f, -100.0f, -1.0f, 0.0f, 1.5f, 20.0f, 41.0f, 45.0f, 100.0f, 300.0f, 3e4f};
  NormalizerSpec spec;
  spec.parameters[0].data = sinks;
  for (const Row& row : rows()) {
    check_row("softmax", Softmax<float>::from({}, kScale), row, -INFINITY);
    check_row("softmax_sink without one", SoftmaxSink<float>::from({}, kScale).of_head(3), row, -INFINITY);
    for (int head = 0; head < int(std::size(sinks)); ++head)
      check_row("softmax_sink", SoftmaxSink<float>::from(spec, kScale).of_head(head), row, sinks[head]);
  }
  return check::summary("test_one_sweep");
}
