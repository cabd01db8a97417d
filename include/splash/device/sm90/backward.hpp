// Hopper backward on the host: arguments -> fits -> workspace -> what each query's row needs -> dQ -> dK and dV.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <array>

#include "splash/collective/sm90/hooks.hpp"
#include "splash/device/list_backward.hpp"
#include "splash/device/sm90/fits.hpp"
#include "splash/device/sm90/strategy.hpp"
#include "splash/device/sm90/sweep_backward.hpp"
#include "splash/device/workspace.hpp"
#include "splash/kernel/prepare_backward.hpp"
#include "splash/kernel/sm90/store_queries.hpp"
#include "splash/kernel/sum_row_gradients.hpp"
#include "splash/tuning/rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// Of the fused sweep: float32 dQ, and its way to the tensor.
template <class Config>
struct FloatQueries {
  collective::Geometry geometry;
  collective::Schedule schedule;

  FloatQueries() = default;
  explicit FloatQueries(const BackwardArguments& args)
      : geometry(make_geometry(args.in, args.layout, false, false)),
        schedule(make_schedule(args.in, args.layout, args.hints, geometry, {Config::kColumns, Config::kColumns, 1},
                               false)) {}

  int64_t bytes() const {
    if (schedule.items == 0) return 0;
    return collective::query_tiles(geometry, Config::kColumns).count(geometry) * Config::kColumns * Config::kHeadDim *
           4;
  }

  cudaError_t store(const BackwardCall& call) const {
    using Element = typename Config::Element;
    const BackwardArguments& args = call.args;
    if (schedule.items == 0) return cudaSuccess;
    const kernel::StoreQueriesParams<Element> params{gradient_tensor<Element>(args.grad_q, float(args.in.scale)),
                                                     call.queries, geometry, schedule, int(args.in.q.shape[3])};
    kernel::store_queries<Config>
        <<<dim3(unsigned(schedule.items), Config::kConsumers), kernel::kStoreQueriesThreads, 0, call.stream>>>(params);
    return cudaGetLastError();
  }
};

/// What TMA, or loads of 16 bytes, read and write of a backward.
inline std::array<Operand, 8> operands_of(const BackwardArguments& args) {
  return {{{"q", &args.in.q},
           {"k", &args.in.k},
           {"v", &args.in.v},
           {"out", &args.out},
           {"grad_out", &args.grad_out},
           {"grad_q", &args.grad_q},
           {"grad_k", &args.grad_k},
           {"grad_v", &args.grad_v}}};
}

/// Zeros for all rows of a tensor.
inline cudaError_t clear_rows(const TensorView& view, cudaStream_t stream) {
  const size_t width = size_t(view.shape[3]) * 2, pitch = size_t(std::max(view.stride[2], view.shape[3])) * 2;
  if (view.shape[2] == 0) return cudaSuccess;
  for (int64_t line = 0; line < view.shape[0] * view.shape[1]; ++line) {
    const int64_t batch = line / view.shape[1], head = line - batch * view.shape[1];
    char* rows = static_cast<char*>(view.data) + (batch * view.stride[0] + head * view.stride[1]) * 2;
    if (cudaError_t error = cudaMemset2DAsync(rows, pitch, 0, width, size_t(view.shape[2]), stream);
        error != cudaSuccess)
      return error;
  }
  return cudaSuccess;
}

inline cudaError_t clear_tensors(const BackwardArguments& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (const TensorView* view : {&args.grad_q, &args.grad_k, &args.grad_v})
    if (error == cudaSuccess) error = clear_rows(*view, stream);
  return error;
}

/// Where there are no queries, or no keys, nothing is kept: all gradients are 0, those of the normalizer too.
inline cudaError_t clear_gradients(const BackwardArguments& args, cudaStream_t stream) {
  cudaError_t error = clear_tensors(args, stream);
  for (int p = 0; p < args.in.normalizer.num_parameters; ++p) {
    const TensorView& gradient = args.grad_parameters[p];
    size_t bytes = gradient.data ? sizeof(float) : 0;
    for (int d = 0; d < gradient.rank; ++d) bytes *= size_t(gradient.shape[d]);
    if (error == cudaSuccess && bytes > 0) error = cudaMemsetAsync(gradient.data, 0, bytes, stream);
  }
  return error;
}

/// grad_q, grad_k, grad_v and the normalizer's gradients are written whole, but for heads and keys that the call is not
/// about. Long rows of simple patterns, and lists of wide blocks, take one fused sweep, which adds dQ up in no fixed
/// order; exec.deterministic, short rows and parameters of the normalizer that learn take two, the same bits in every
/// run; so does the one sweep where rows are problems of so few keys that a piece holds them. Asynchronous on
/// exec.stream. Beside the tensors it takes 8 bytes a query and head, 4 more where the normalizer learns, float32 tiles
/// of rows that are split over their columns, and for the fused sweep dQ in float32. Span: as the forward's; instances
/// for narrow spans and lists of narrow blocks work on pieces of 64 rows, and fuse nothing.
template <class Pattern, class Normalizer, class Element, int HeadDim, tuning::Spans Span>
Status sweep_backward_sm90(const Pattern& pattern, const BackwardArguments& args, const Execution& exec) {
  static_assert(normalizers::backward_calls_all_hooks<Normalizer, collective::kBackwardHooksSm90>());
  static_assert(patterns::hooks_are_spelled_right<Pattern>());
  using tuning::Gradients;
  using Queries = collective::ConfigBackwardSm90<Pattern, Normalizer, Element, HeadDim, Gradients::queries, Span>;
  using Keys = collective::ConfigBackwardSm90<Pattern, Normalizer, Element, HeadDim, Gradients::keys_values, Span>;
  constexpr KernelsBackwardSm90 kKernels = kernels_backward_sm90<Pattern, HeadDim, Span>();
  constexpr bool kFuses = kKernels.fuses, kCloses = kKernels.closes;
  using All = collective::ConfigBackwardSm90<Pattern, Normalizer, Element, HeadDim,
                                             kFuses ? Gradients::all : Keys::kPass, Span>;
  // A kernel of its own for each Span: stubs of kernels are a translation unit's own, functions of theirs are not.
  using Closed = collective::ConfigBackwardSm90<Pattern, Normalizer, Element, HeadDim,
                                                kCloses ? Gradients::closed : Keys::kPass, Span>;
  static_assert(Keys::kByOutput == kKernels.by_output && (!kFuses || All::kColumns == kKernels.fused_columns) &&
                (!kCloses || Closed::kRows == kKernels.closed_rows));
  const TensorView& q = args.in.q;
  const auto stream = static_cast<cudaStream_t>(exec.stream);
  int multiprocessors = 0;
  const auto prepare = [&]<class Config>(const Config*) {
    using Kernel = kernel::BackwardSm90<Config>;
    return prepare_launch<kernel::backward_sm90<Kernel>>(kernel::shared_bytes<Config>, multiprocessors);
  };
  cudaError_t error = prepare(static_cast<const Queries*>(nullptr));
  if (error == cudaSuccess) error = prepare(static_cast<const Keys*>(nullptr));
  if constexpr (kFuses)
    if (error == cudaSuccess) error = prepare(static_cast<const All*>(nullptr));
  if constexpr (kCloses)
    if (error == cudaSuccess) error = prepare(static_cast<const Closed*>(nullptr));
  if (error != cudaSuccess) return failure(error);

  constexpr bool kLearns = normalizers::kRowGradientsOf<Normalizer> > 0;
  const bool learns = kLearns && args.in.normalizer.num_parameters > 0 && args.grad_parameters[0].data;
  const Strategy strategy = strategy_backward_sm90<Pattern, HeadDim, Span>(pattern, args.in, args.layout, args.join,
                                                                           exec.deterministic, learns);
  const bool closed = strategy == Strategy::closed, fused = strategy == Strategy::fused;
  Sweep<Queries> queries;
  Sweep<Keys> keys;
  Sweep<All> all;
  Sweep<Closed> closed_all;
  FloatQueries<All> float_queries;
  if (closed) {
    closed_all = Sweep<Closed>(args, multiprocessors);
  } else if (fused) {
    all = Sweep<All>(args, multiprocessors);
    float_queries = FloatQueries<All>(args);
  } else {
    queries = Sweep<Queries>(args, multiprocessors);
    keys = Sweep<Keys>(args, multiprocessors);
  }

  const int64_t rows = q.shape[0] * q.shape[1] * q.shape[2];
  const int64_t partial = std::max(
      {queries.workspace_floats(), keys.workspace_floats(), all.workspace_floats(), closed_all.workspace_floats()});
  constexpr int64_t kCounters = 256;  // bytes
  const int64_t sums = float_queries.bytes(), own_stats = args.join.row_stats ? 0 : rows * 8;
  Workspace workspace(exec, kCounters + sums + own_stats + (learns ? rows * 4 : 0) + partial * 4 + 16);
  if (workspace.missing()) return {StatusCode::cuda_error, "out of memory for the workspace of a call"};
  int* counters = reinterpret_cast<int*>(workspace.take(kCounters));
  auto* sums_of_queries = reinterpret_cast<float4*>(workspace.take(sums));
  float* partials = reinterpret_cast<float*>(workspace.take((partial * 4 + 15) / 16 * 16));
  BackwardCall call{.args = args,
                    .stream = stream,
                    .beside = false,
                    .row_stats = static_cast<float2*>(args.join.row_stats),
                    .dots = nullptr,
                    .counters = counters,
                    .partial = partials,
                    .queries = sums_of_queries};
  if (!call.row_stats) call.row_stats = reinterpret_cast<float2*>(workspace.take(own_stats));
  if (learns) call.dots = reinterpret_cast<float*>(workspace.take(rows * 4));

  const bool counted = queries.counted || keys.counted || all.counted || closed_all.counted;
  const bool prepares = rows > 0 && (args.join.first || !args.join.row_stats);
  const int64_t zeros = counted || sums > 0 ? kCounters + sums : 0;
  if (zeros > 0 && !prepares) error = cudaMemsetAsync(counters, 0, size_t(zeros), stream);
  if (args.in.positions.cu_queries) {
    if (args.join.first && error == cudaSuccess) error = clear_tensors(args, stream);
    if (error == cudaSuccess && call.dots) error = cudaMemsetAsync(call.dots, 0, size_t(rows) * 4, stream);
  }
  if (error != cudaSuccess) return failure(error);

  const Normalizer normalizer = Normalizer::from(args.in.normalizer, math::split_scale(args.in.scale).magnitude);
  const kernel::PrepareParams<Element, Normalizer> prepared{
      .out = rows_of<const Element>(args.out),
      .grad_out = rows_of<const Element>(args.grad_out),
      .statistic = static_cast<const float*>(args.statistic.data),
      .grad_statistic = static_cast<const float*>(args.grad_statistic.data),
      .row_stats = call.row_stats,
      .normalizer = normalizer,
      .heads = int(q.shape[1]),
      .num_queries = int(q.shape[2]),
      .head_dim = int(q.shape[3]),
      .row_tiles = 0,
      .zeros = reinterpret_cast<float4*>(counters),
      .num_zeros = zeros / 16};
  if (prepares) error = kernel::launch_prepare_backward(prepared, int(q.shape[0]), stream);
  if (error != cudaSuccess) return failure(error);

  if (closed) return launch_sweep<Closed>(pattern, call, closed_all, counters);
  if (fused) {
    if (Status status = launch_sweep<All>(pattern, call, all, counters); !status.ok()) return status;
    if constexpr (kFuses) error = float_queries.store(call);
    return error == cudaSuccess ? Status{} : failure(error);
  }
  // Sweeps fill each other's tails where neither reads or adds to what the other writes: never results of its own call,
  // nor, with a workspace that is not shared, those of a call about other rows.
  call.beside = !args.join.first && args.join.row_stats && !args.join.adds_queries;
  if (Status status = launch_sweep<Queries>(pattern, call, queries, counters); !status.ok()) return status;
  call.beside = queries.runs_alone() && !(args.join.adds_keys && call.beside);
  if (Status status = launch_sweep<Keys>(pattern, call, keys, counters + 16); !status.ok()) return status;

  if constexpr (kLearns)
    if (learns) {
      constexpr int kThreads = tuning::kRowGradientThreads;
      const HeadRange& heads = args.layout.heads;
      const kernel::SumRowGradientsParams<Normalizer> sums_of_rows{
          .normalizer = normalizer,
          .statistic = static_cast<const float*>(args.statistic.data),
          .dots = call.dots,
          .gradient = static_cast<float*>(args.grad_parameters[0].data),
          .batches = int(q.shape[0]),
          .heads = int(q.shape[1]),
          .num_queries = int(q.shape[2]),
          .first_head = int(heads.first),
          .head_step = int(heads.step),
          .adds = args.join.adds_queries};
      kernel::sum_row_gradients<kThreads, Normalizer>
          <<<unsigned(heads.count > 0 ? heads.count : q.shape[1]), kThreads, 0, stream>>>(sums_of_rows);
      error = cudaGetLastError();
    }
  return error == cudaSuccess ? Status{} : failure(error);
}

/// Which kernels run a call: lists where the forward left them, sweeps over tiles of scores otherwise.
template <class Pattern, class Normalizer, class Element, int HeadDim, tuning::Spans Span>
Status backward_sm90(const Pattern& pattern, const BackwardArguments& args, const Execution& exec) {
  const TensorView& q = args.in.q;
  const auto operands = operands_of(args);
  if (Fault fault = fits_backward_sm90<Pattern, Normalizer, HeadDim, Span>(operands, args.layout, false))
    return report(std::move(fault));
  if (q.shape[0] == 0 || q.shape[1] == 0) return {};
  if (q.shape[2] == 0 || args.in.k.shape[2] == 0) {
    const cudaError_t cleared =
        args.join.first ? clear_gradients(args, static_cast<cudaStream_t>(exec.stream)) : cudaSuccess;
    return cleared == cudaSuccess ? Status{} : failure(cleared);
  }
  if constexpr (normalizers::kListsCandidates<Normalizer>)
    return list_backward<Pattern, Normalizer, Element, HeadDim>(pattern, args, exec);
  else
    return sweep_backward_sm90<Pattern, Normalizer, Element, HeadDim, Span>(pattern, args, exec);
}

}  // namespace device
SPLASH_NAMESPACE_END
