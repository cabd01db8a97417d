// The Hopper mainloops ask a pattern and a normalizer everything that their contracts name: policies that count their
// calls run through forward and backward on a GPU, and give what the CPU's mainloops give for the same problem.
//
// Compiled wherever CUDA is; where there is no Hopper GPU it says so and is skipped.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include "check.hpp"
#include "expected_policies.hpp"
#include "splash/device/sm90/backward.hpp"
#include "splash/device/sm90/forward.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax_sink.hpp"
#include "splash/normalizers/top_k.hpp"
#include "splash/patterns/sliding_window.hpp"

namespace {

using namespace splash;

enum Hook {
  kKeep,
  kClassify,
  kNextColumn,
  kNextRow,
  kFrom,
  kOfHead,
  kObserve,
  kRefine,
  kMeet,
  kWeigh,
  kFinish,
  kOutputFactor,
  kStatistic,
  kSaved,
  kRowStats,
  kWeightOf,
  kDscoreOf,
  kRowGradient,
  kHooks
};
constexpr const char* kNames[kHooks] = {
    "keep",  "classify", "next_column",   "next_row",  "from",  "of_head",   "observe",   "refine",    "meet",
    "weigh", "finish",   "output_factor", "statistic", "saved", "row_stats", "weight_of", "dscore_of", "row_gradient"};

__device__ unsigned long long device_calls[kHooks];
unsigned long long host_calls[kHooks];

SPLASH_HD void count(Hook hook) {
#ifdef __CUDA_ARCH__
  atomicAdd(&device_calls[hook], 1ull);
#else
  ++host_calls[hook];
#endif
}

struct CountingWindow {
  patterns::SlidingWindow window;

  static constexpr bool kBlockLists = false, kSimple = false;

  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    return count(kKeep), window.keep(frame, row, column);
  }
  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    return count(kClassify), window.classify(frame, box);
  }
  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return count(kNextColumn), window.next_column(frame, row_begin, row_end, column);
  }
  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return count(kNextRow), window.next_row(frame, column_begin, column_end, row);
  }
};

template <class Inner>
struct Counting : Inner {
  static SPLASH_HD Counting from(const NormalizerSpec& spec, double scale) {
    return count(kFrom), Counting{Inner::from(spec, scale)};
  }
  SPLASH_HD Counting of_head(int head) const
    requires requires(const Inner& n) { n.of_head(0); }
  {
    return count(kOfHead), Counting{Inner::of_head(head)};
  }
  SPLASH_HD auto row_stats(float statistic, float output_dot, float dstatistic) const
    requires requires(const Inner& n) { n.row_stats(0.0f, 0.0f, 0.0f); }
  {
    return count(kRowStats), Inner::row_stats(statistic, output_dot, dstatistic);
  }
  SPLASH_HD float weight_of(float score, float shift) const { return count(kWeightOf), Inner::weight_of(score, shift); }
  SPLASH_HD float dscore_of(float weight, float dp, float delta) const {
    return count(kDscoreOf), Inner::dscore_of(weight, dp, delta);
  }
  SPLASH_HD float row_gradient(float statistic, float output_dot) const
    requires requires(const Inner& n) { n.row_gradient(0.0f, 0.0f); }
  {
    return count(kRowGradient), Inner::row_gradient(statistic, output_dot);
  }

  template <class Value, int R>
  struct Rows : Inner::template Rows<Value, R> {
    using Base = typename Inner::template Rows<Value, R>;

    template <class Fragment>
    SPLASH_HD void observe(const Counting& n, Fragment& fragment) {
      count(kObserve);
      Base::observe(n, fragment);
    }
    template <class Reduce>
    SPLASH_HD bool refine(const Counting& n, const Reduce& reduce) {
      return count(kRefine), Base::refine(n, reduce);
    }
    template <class Fragment, class Reduce>
    SPLASH_HD void meet(const Counting& n, Fragment& fragment, Value (&rescale)[R], const Reduce& reduce) {
      count(kMeet);
      Base::meet(n, fragment, rescale, reduce);
    }
    template <class Fragment>
    SPLASH_HD void weigh(const Counting& n, Fragment& fragment) {
      count(kWeigh);
      Base::weigh(n, fragment);
    }
    template <class Reduce>
    SPLASH_HD void finish(const Counting& n, const Reduce& reduce) {
      count(kFinish);
      Base::finish(n, reduce);
    }
    SPLASH_HD Value output_factor(const Counting& n, int r) const {
      return count(kOutputFactor), Base::output_factor(n, r);
    }
    SPLASH_HD Value statistic(const Counting& n, int r) const { return count(kStatistic), Base::statistic(n, r); }
    SPLASH_HD Value saved(int r, int s) const { return count(kSaved), Base::saved(r, s); }
  };
};

constexpr int kHeads = 2, kRows = 300, kColumns = 333, kDim = 64;
using Element = cutlass::bfloat16_t;

/// The same numbers for both: eighths, which 16 bits hold, and whose products add up without rounding, so that equal
/// scores are equal everywhere.
struct Tensor {
  int heads, rows, width;
  std::vector<float> values;
  Element* elements = nullptr;
  float* floats = nullptr;

  Tensor(int heads, int rows, int width, int seed = 0) : heads(heads), rows(rows), width(width) {
    values.resize(size_t(heads) * rows * width, -7.0f);
    if (seed)
      for (size_t n = 0; n < values.size(); ++n) values[n] = float(int((n * 2654435761u * seed >> 7) % 17) - 8) / 8;
    cudaMalloc(&elements, values.size() * sizeof(Element));
    cudaMalloc(&floats, values.size() * sizeof(float));
    std::vector<Element> rounded(values.begin(), values.end());
    cudaMemcpy(elements, rounded.data(), values.size() * sizeof(Element), cudaMemcpyHostToDevice);
    cudaMemcpy(floats, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice);
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() { cudaFree(elements), cudaFree(floats); }

  TensorView view(void* data, DType dtype) const {
    return {data, dtype, 4, {1, heads, rows, width}, {int64_t(heads) * rows * width, int64_t(rows) * width, width, 1}};
  }
  TensorView on_device() const { return view(elements, DType::bfloat16); }
  TensorView on_host() { return view(values.data(), DType::float32); }
  /// Of a row of numbers, which are float32 in both.
  TensorView numbers(bool device) { return view(device ? floats : values.data(), DType::float32); }

  void compare(const char* name, bool in_float, double bound) const {
    double most = 0, worst = 0;
    std::vector<Element> rounded(values.size());
    std::vector<float> exact(values.size());
    cudaMemcpy(rounded.data(), elements, values.size() * sizeof(Element), cudaMemcpyDeviceToHost);
    cudaMemcpy(exact.data(), floats, values.size() * sizeof(float), cudaMemcpyDeviceToHost);
    for (size_t n = 0; n < values.size(); ++n) {
      const float found = in_float ? exact[n] : float(rounded[n]);
      if (std::isinf(values[n]) && values[n] == found) continue;
      most = std::max(most, double(std::abs(values[n])));
      worst = std::max(worst, std::isnan(found) ? INFINITY : double(std::abs(found - values[n])));
    }
    check::that(worst <= bound * std::max(most, 1.0), "%s: off by %g of %g", name, worst, most);
  }
};

void clear_counts() {
  const unsigned long long zeros[kHooks] = {};
  cudaMemcpyToSymbol(device_calls, zeros, sizeof(zeros));
  for (auto& calls : host_calls) calls = 0;
}

void expect(const char* name, const char* pass, std::initializer_list<Hook> hooks) {
  unsigned long long calls[kHooks];
  cudaMemcpyFromSymbol(calls, device_calls, sizeof(calls));
  for (const Hook hook : hooks)
    check::that(calls[hook] + host_calls[hook] > 0, "%s: the %s never calls %s", name, pass, kNames[hook]);
}

void succeed(const char* name, Status status) {
  check::that(status.ok(), "%s: %s", name, status.reason);
  const cudaError_t error = cudaDeviceSynchronize();
  check::that(error == cudaSuccess, "%s: %s", name, cudaGetErrorString(error));
}

template <class Inner, bool Backward>
void check_normalizer(const char* name, std::initializer_list<double> numbers, bool sink,
                      std::initializer_list<Hook> forward_hooks, std::initializer_list<Hook> backward_hooks) {
  const patterns::SlidingWindow window{70, 5};
  Tensor q(kHeads, kRows, kDim, 3), k(1, kColumns, kDim, 5), v(1, kColumns, kDim, 11), grad_out(kHeads, kRows, kDim, 7);
  Tensor out(kHeads, kRows, kDim), statistic(kHeads, kRows, 1), saved(kListPlanes * kHeads, kRows, 1);
  Tensor sinks(1, 1, kHeads, 13), grad_sinks(1, 1, kHeads), no_gradient(kHeads, kRows, 1);
  Tensor grad_q(kHeads, kRows, kDim), grad_k(1, kColumns, kDim), grad_v(1, kColumns, kDim);

  const auto inputs = [&](bool device) {
    const auto view = [&](Tensor& tensor) { return device ? tensor.on_device() : tensor.on_host(); };
    AttentionInputs in;
    in.q = view(q), in.k = view(k), in.v = view(v);
    in.scale = 0.125;
    in.positions.q_start = kColumns - kRows;
    for (const double number : numbers) in.normalizer.floats[in.normalizer.num_floats++] = number;
    if (sink) {
      in.normalizer.num_parameters = 1;
      in.normalizer.parameters[0] = {sinks.numbers(device).data, DType::float32, 1, {kHeads}, {1}};
    }
    return in;
  };
  const auto forward_of = [&](bool device) {
    ForwardArguments arguments;
    arguments.in = inputs(device);
    arguments.out = device ? out.on_device() : out.on_host();
    arguments.statistic = statistic.numbers(device);
    arguments.saved = saved.numbers(device);
    return arguments;
  };
  std::printf("%s\n", name), std::fflush(stdout);
  clear_counts();
  succeed(name, expected_forward(name, window, forward_of(false)));
  succeed(name, device::forward_sm90<CountingWindow, Counting<Inner>, Element, kDim, tuning::Spans::any>(
                    CountingWindow{window}, forward_of(true), {}));
  expect(name, "forward", {kKeep, kClassify, kNextColumn, kFrom, kWeigh, kFinish, kOutputFactor, kStatistic});
  expect(name, "forward", forward_hooks);
  out.compare("out", false, 0.02);
  statistic.compare("statistic", true, 1e-4);
  if constexpr (Backward) {
    const auto backward_of = [&](bool device) {
      const auto view = [&](Tensor& tensor) { return device ? tensor.on_device() : tensor.on_host(); };
      BackwardArguments arguments;
      arguments.in = inputs(device);
      arguments.out = view(out), arguments.grad_out = view(grad_out);
      arguments.statistic = statistic.numbers(device), arguments.saved = saved.numbers(device);
      arguments.grad_q = view(grad_q), arguments.grad_k = view(grad_k), arguments.grad_v = view(grad_v);
      if (sink) arguments.grad_parameters[0] = {grad_sinks.numbers(device).data, DType::float32, 1, {kHeads}, {1}};
      return arguments;
    };
    clear_counts();
    succeed(name, expected_backward(name, window, backward_of(false)));
    succeed(name, device::backward_sm90<CountingWindow, Counting<Inner>, Element, kDim, tuning::Spans::any>(
                      CountingWindow{window}, backward_of(true), {}));
    expect(name, "backward", {kKeep, kClassify, kNextColumn, kNextRow, kFrom, kRowStats, kWeightOf, kDscoreOf});
    expect(name, "backward", backward_hooks);
    grad_q.compare("grad_q", false, 0.03);
    grad_k.compare("grad_k", false, 0.03);
    grad_v.compare("grad_v", false, 0.03);
    if (sink) grad_sinks.compare("grad_sink", true, 0.01);
  }
}

}  // namespace

int main() {
  cudaDeviceProp device{};
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0 ||
      cudaGetDeviceProperties(&device, 0) != cudaSuccess || device.major != 9) {
    std::printf("test_policies_sm90: compiled, but not run: no Hopper GPU\n");
    return 77;
  }
  using Entmax15 = normalizers::Entmax<float, normalizers::SquareExponent>;
  check_normalizer<normalizers::Softmax<float>, true>("softmax", {}, false, {kMeet}, {});
  check_normalizer<normalizers::SoftmaxSink<float>, true>("softmax_sink", {}, true, {kMeet, kOfHead},
                                                          {kOfHead, kRowGradient});
  check_normalizer<Entmax15, false>("entmax15", {1.5}, false, {kObserve, kRefine, kSaved}, {});
  // Its choice among equal scores depends on the columns of its fragments.
  check_normalizer<normalizers::TopK<normalizers::Softmax<float>>, false>("top_k_softmax", {5}, false,
                                                                          {kObserve, kRefine, kMeet, kSaved}, {});
  return check::summary("test_policies_sm90");
}
