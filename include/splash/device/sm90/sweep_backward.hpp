// One kernel of the Hopper backward on the host: its pieces of work, tensor maps, launch, and the merging of splits.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "splash/device/launch.hpp"
#include "splash/device/schedule.hpp"
#include "splash/device/sm90/tensor_map.hpp"
#include "splash/kernel/combine_gradients.hpp"
#include "splash/kernel/sm90/backward.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// What the sweeps of one call share.
struct BackwardCall {
  const BackwardArguments& args;
  cudaStream_t stream;
  bool beside;        ///< the next sweep may run beside the kernel before it on the stream
  float2* row_stats;  ///< (B, Hq, Nq)
  float* dots;        ///< (B, Hq, Nq), or nullptr
  int* counters;      ///< of zeros, one for each sweep
  float* partial;     ///< of the sweep that runs
  float4* queries;    ///< dQ in float32 where the sweeps are one, of zeros
};

/// One kernel of the backward: its pieces of work, and how much workspace their splits take.
template <class Config>
struct Sweep {
  collective::Geometry geometry;
  collective::Schedule schedule;
  int grid = 0;
  bool counted = false;  ///< pieces go to whoever is free

  Sweep() = default;
  Sweep(const BackwardArguments& args, int multiprocessors)
      : geometry(make_geometry(args.in, args.layout, Config::kKeyMajor, false)) {
    const int most = multiprocessors * Config::kTuning.warps.blocks_per_sm;
    const Blocks blocks{Config::kRows, Config::kColumns, most * Config::kTeams, kLastEach<typename Config::Pattern>};
    schedule = make_schedule(args.in, args.layout, args.hints, geometry, blocks, true);
    grid = std::min((schedule.items + Config::kTeams - 1) / Config::kTeams, most);
    counted = wants_counter(args.in, args.hints, schedule, grid * Config::kTeams);
  }

  /// One kernel on the stream, and no other that follows it.
  bool runs_alone() const { return grid > 0 && schedule.split_items == 0; }
  int64_t partial_rows() const { return int64_t(schedule.split_items) * Config::kRows; }
  int64_t workspace_floats() const { return partial_rows() * (Config::kOutputs * Config::kHeadDim + 1); }
};

template <class Config>
bool encode_maps(collective::MapsBackwardSm90& maps, const BackwardArguments& args, int classes) {
  const TensorView& q = args.in.q;
  const auto type = q.dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const auto view = [&](const TensorView& tensor) { return map_view(tensor, q.data); };
  const bool keys = Config::kKeyMajor;
  const MapView a[2] = {view(keys ? args.in.k : q), view(keys ? args.in.v : args.grad_out)};
  const MapView k = view(keys ? q : args.in.k), v = view(keys ? args.grad_out : args.in.v);
  const MapView out[2] = {view(keys ? args.grad_k : args.grad_q), view(args.grad_v)};
  maps.long_query_classes = int(a[0].rows % classes);
  maps.long_key_classes = int(k.rows % classes);
  for (int t = 0; t < 2; ++t) maps.fold_a_head[t] = a[t].fold_head, maps.fold_a_batch[t] = a[t].fold_batch;
  maps.fold_k_head = k.fold_head, maps.fold_k_batch = k.fold_batch;
  maps.fold_v_head = v.fold_head, maps.fold_v_batch = v.fold_batch;
  const auto encode = [&](CUtensorMap(&map)[2], const MapView& tensor, int rows) {
    return encode_class_maps(map, type, tensor, classes, Config::kBoxColumns, rows);
  };
  const KeyRuns& runs = args.layout.key_runs;
  const auto encode_rows = [&](CUtensorMap(&map)[2], const MapView& tensor) {
    return keys && runs.length > 0 ? encode_run_map(map[1], type, tensor, runs, Config::kBoxColumns, 64)
                                   : encode(map, tensor, 64);
  };
  const auto encode_columns = [&](CUtensorMap(&map)[2], const MapView& tensor) {
    return !keys && runs.length > 0 ? encode_run_map(map[1], type, tensor, runs, Config::kBoxColumns, Config::kColumns)
                                    : encode(map, tensor, Config::kColumns);
  };
  return encode_rows(maps.a[0], a[0]) && encode_rows(maps.a[1], a[1]) && encode_columns(maps.k, k) &&
         encode_columns(maps.v, v) && encode_rows(maps.out[0], out[0]) && encode_rows(maps.out[1], out[1]);
}

template <class Element>
collective::GradientTensor<Element> gradient_tensor(const TensorView& view, float scale) {
  const auto stride = [&](int d) { return view.shape[d] > 1 ? view.stride[d] : 0; };
  return {static_cast<Element*>(view.data), stride(2), stride(1), stride(0), scale};
}

template <class Config>
Status launch_sweep(const typename Config::Pattern& pattern, const BackwardCall& call, const Sweep<Config>& sweep,
                    int* counter) {
  using Kernel = kernel::BackwardSm90<Config>;
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;
  constexpr int kBytes = kernel::shared_bytes<Config>;
  static_assert(kBytes <= Config::kTuning.shared_limit(), "more shared memory than a multiprocessor has");
  const BackwardArguments& args = call.args;
  const math::SignedScale scale = math::split_scale(args.in.scale);
  const float signed_scale = float(args.in.scale);
  typename Kernel::Params params{};
  params.producer.pattern = pattern;
  params.producer.geometry = sweep.geometry;
  params.producer.schedule = sweep.schedule;
  params.producer.row_stats = call.row_stats;
  if (sweep.counted) params.producer.schedule.counter = counter;
  params.consumer = {.normalizer = Normalizer::from(args.in.normalizer, scale.magnitude),
                     .sign = float(scale.sign),
                     .dots = !Config::kKeyMajor && call.dots,
                     .queries = call.queries,
                     .closed = {}};
  if constexpr (Config::kPreset) {
    if (scale.sign == 0) params.consumer.sign = 0x1p-90f;  // what is preset must not be multiplied by 0
    params.producer.shift_factor = params.consumer.normalizer.shift_factor() / params.consumer.sign;
  }
  if constexpr (Config::kCloses) {
    const auto to = gradient_tensor<Element>(args.grad_q, signed_scale);
    params.consumer.closed = {.data = to.data,
                              .row_stride = to.row_stride,
                              .head_stride = to.head_stride,
                              .batch_stride = to.batch_stride,
                              .tiles = collective::query_tiles(sweep.geometry, Config::kColumns).each,
                              .heads = int(args.in.q.shape[1]),
                              .num_queries = int(args.in.q.shape[2]),
                              .head_dim = int(args.in.q.shape[3]),
                              .scale = signed_scale};
  }
  auto& output = params.output;
  if constexpr (!Config::kKeyMajor) {
    output.gradients[0] = gradient_tensor<Element>(args.grad_q, signed_scale);
    output.dots = call.dots;
  } else {
    output.gradients[0] = gradient_tensor<Element>(args.grad_k, signed_scale);
    output.gradients[1] = gradient_tensor<Element>(args.grad_v, 1.0f);
  }
  output.adds = Config::kKeyMajor ? args.join.adds_keys : args.join.adds_queries;
  output.split_items = sweep.schedule.split_items;
  output.head_dim = int(args.in.q.shape[3]);
  output.partial = call.partial;
  output.partial_dots = call.partial + sweep.partial_rows() * Config::kOutputs * Config::kHeadDim;
  if (!encode_maps<Config>(params.producer.maps, args, sweep.geometry.residues.divisor))
    return {StatusCode::cuda_error, "the driver refused a tensor map of the backward"};

  if (sweep.grid == 0) return {};
  params.beside = call.beside;
  cudaError_t error = launch_after(true, kernel::backward_sm90<Kernel>, dim3(unsigned(sweep.grid)), Config::kThreads,
                                   kBytes, call.stream, params);
  if (error == cudaSuccess && sweep.schedule.split_items > 0) {
    constexpr int kWarps = 4;
    const int tiles = sweep.schedule.split_items / sweep.schedule.splits.divisor;
    const kernel::CombineGradientsParams<Element> combine{.output = output,
                                                          .geometry = sweep.geometry,
                                                          .schedule = sweep.schedule,
                                                          .outputs = Config::kOutputs,
                                                          .tile_rows = Config::kRows,
                                                          .stored_columns = Config::kHeadDim};
    error = launch_after(true, kernel::combine_gradients<Element>,
                         dim3(unsigned(tiles), Config::kRows / kWarps, unsigned(Config::kOutputs)), 32 * kWarps, 0,
                         call.stream, combine);
  }
  return error == cudaSuccess ? Status{} : failure(error);
}

}  // namespace device
SPLASH_NAMESPACE_END
