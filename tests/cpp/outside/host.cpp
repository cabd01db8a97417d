// Stripes under softmax and sparsemax on the CPU, against two plain loops.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "../problem.hpp"
#include "splash/cpu/forward.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax.hpp"
#include "stripes.hpp"

namespace {

using Weights = std::vector<double> (*)(const std::vector<double>& scores);

std::vector<double> softmax(const std::vector<double>& scores) {
  std::vector<double> weights;
  double sum = 0;
  for (const double score : scores) sum += std::exp(score);
  for (const double score : scores) weights.push_back(std::exp(score) / sum);
  return weights;
}

/// Martins & Astudillo 2016: the support is the longest prefix of the sorted scores with 1 + k z_k > sum of the prefix.
std::vector<double> sparsemax(const std::vector<double>& scores) {
  std::vector<double> sorted = scores, weights;
  std::sort(sorted.rbegin(), sorted.rend());
  double sum = 0, tau = 0;
  for (std::size_t k = 1; k <= sorted.size(); ++k) {
    sum += sorted[k - 1];
    if (1 + double(k) * sorted[k - 1] > sum) tau = (sum - 1) / double(k);
  }
  for (const double score : scores) weights.push_back(std::max(score - tau, 0.0));
  return weights;
}

/// Largest difference of the problem's output from the plain loops.
double difference(const Problem& problem, const Stripes& pattern, Weights normalize) {
  const splash::Frame frame = splash::make_frame(problem.forward.in.positions, 0, 0, problem.rows, problem.columns);
  double largest = 0;
  for (int head = 0; head < Problem::kHeads; ++head)
    for (int row = 0; row < problem.rows; ++row) {
      std::vector<int> kept;
      std::vector<double> scores;
      for (int column = 0; column < problem.columns; ++column)
        if (pattern.keep(frame, row, column))
          kept.push_back(column), scores.push_back(problem.score(head, row, column));
      const std::vector<double> weights = normalize(scores);
      for (int d = 0; d < Problem::kDim; ++d) {
        double expected = 0;
        for (std::size_t n = 0; n < kept.size(); ++n) expected += weights[n] * problem.value(head, kept[n])[d];
        const double error = std::abs(expected - problem.output(head, row)[d]);
        largest = std::max(largest, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
      }
    }
  return largest;
}

template <class Normalizer>
bool agrees(const char* name, double alpha, Weights normalize) {
  const Stripes pattern{3};
  Problem problem(130, 170, alpha);
  const splash::Status status = splash::cpu::forward<Stripes, Normalizer, float, float>(pattern, problem.forward, {});
  const double error = status.ok() ? difference(problem, pattern, normalize) : INFINITY;
  std::printf("%s: largest difference %.2e\n", name, error);
  return error < 1e-5;
}

}  // namespace

int main() {
  using splash::normalizers::Entmax;
  using splash::normalizers::GeneralExponent;
  using splash::normalizers::Softmax;
  const bool first = agrees<Softmax<float>>("softmax", 0, softmax);
  const bool second = agrees<Entmax<float, GeneralExponent>>("sparsemax", 2, sparsemax);
  return first && second ? 0 : 1;
}
