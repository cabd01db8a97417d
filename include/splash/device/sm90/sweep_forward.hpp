// The sweeps of the Hopper forward on the host: arguments -> fits -> geometry and schedule -> tensor maps -> launch.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "splash/device/launch.hpp"
#include "splash/device/schedule.hpp"
#include "splash/device/sm90/fits.hpp"
#include "splash/device/sm90/tensor_map.hpp"
#include "splash/device/workspace.hpp"
#include "splash/kernel/combine_splits.hpp"
#include "splash/kernel/fill_unclaimed.hpp"
#include "splash/kernel/sm90/forward.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

template <class Config>
bool encode_maps(collective::MapsForwardSm90& maps, const ForwardArguments& args,
                 const collective::Geometry& geometry) {
  const TensorView& q = args.in.q;
  const MapView view_q = map_view(q, q.data), view_k = map_view(args.in.k, q.data),
                view_v = map_view(args.in.v, q.data);
  const auto type = q.dtype == DType::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const int classes = geometry.residues.divisor;
  maps.long_query_classes = int(view_q.rows % classes);
  maps.long_key_classes = int(view_k.rows % classes);
  maps.fold_q_head = view_q.fold_head, maps.fold_q_batch = view_q.fold_batch;
  maps.fold_k_head = view_k.fold_head, maps.fold_k_batch = view_k.fold_batch;
  maps.fold_v_head = view_v.fold_head, maps.fold_v_batch = view_v.fold_batch;
  constexpr int kColumns = Config::kBoxColumns;
  const auto encode_rows = [&](CUtensorMap(&map)[2], const MapView& view) {
    if (geometry.pack() == 1) return encode_class_maps(map, type, view, classes, kColumns, 64);
    const int pack = geometry.pack();
    const MapShape shape{{view.head_dim, pack, view.rows, view.heads / pack, view.batch},
                         {1, view.head_stride, view.row_stride, view.head_stride * pack, view.batch_stride},
                         {kColumns, pack, 64 / pack, 1, 1}};
    return encode_map(map[1], type, view.data, shape, 2 * kColumns);
  };
  const KeyRuns& runs = args.layout.key_runs;
  const auto encode_keys = [&](CUtensorMap(&map)[2], const MapView& view) {
    return runs.length > 0 ? encode_run_map(map[1], type, view, runs, kColumns, Config::kColumns)
                           : encode_class_maps(map, type, view, classes, kColumns, Config::kColumns);
  };
  return encode_rows(maps.q, view_q) && encode_rows(maps.out, map_view(args.out, q.data)) &&
         encode_keys(maps.k, view_k) && encode_keys(maps.v, view_v);
}

/// Merges the ranges of keys that were worked on apart.
template <class Config, class Params>
cudaError_t launch_combine(const Params& params, cudaStream_t stream) {
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;
  constexpr int kWarps = 4;
  const collective::Schedule& schedule = params.producer.schedule;
  const int tiles = schedule.split_items / schedule.splits.divisor;
  const kernel::CombineParams<Element, Normalizer> combine{.output = params.output,
                                                           .geometry = params.producer.geometry,
                                                           .schedule = schedule,
                                                           .normalizer = params.consumer.normalizer,
                                                           .tile_rows = Config::kRows,
                                                           .stored_columns = Config::kHeadDim};
  return launch_after(true, kernel::combine_splits<Element, Normalizer>, dim3(unsigned(tiles), Config::kRows / kWarps),
                      32 * kWarps, 0, stream, combine);
}

/// Launches the kernel that visits every tile of scores. selected: where it has flags, only the pieces that hold rows
/// of them are worked on. The call fits, and has rows.
template <class Pattern, class Normalizer, class Element, int HeadDim, tuning::Spans Span>
Status sweep_forward_sm90(const Pattern& pattern, const ForwardArguments& args, const Execution& exec,
                          const CandidateLists& selected = {}) {
  using Config = collective::ConfigForwardSm90<Pattern, Normalizer, Element, HeadDim, Span>;
  using Params = typename kernel::ForwardSm90<Config, false>::Params;
  constexpr int kBytes = int(sizeof(typename Config::SharedStorage));
  static_assert(kBytes <= Config::kTuning.shared_limit(), "more shared memory than a multiprocessor has");
  const TensorView& q = args.in.q;
  const auto stream = static_cast<cudaStream_t>(exec.stream);
  int multiprocessors = 0;
  void (*function)(Params) = nullptr;
  const auto prepare = [&]<bool Resumes>() {
    constexpr auto kFunction = kernel::forward_sm90<kernel::ForwardSm90<Config, Resumes>>;
    function = kFunction;
    return prepare_launch<kFunction>(kBytes, multiprocessors);
  };
  cudaError_t error = cudaSuccess;
  if constexpr (kResumes<Pattern, Normalizer>)
    error = args.join.accumulate ? prepare.template operator()<true>() : prepare.template operator()<false>();
  else
    error = prepare.template operator()<false>();
  if (error != cudaSuccess) return failure(error);

  const math::SignedScale scale = math::split_scale(args.in.scale);
  const TensorView& out = args.out;
  Params params{};
  collective::Geometry& geometry = params.producer.geometry;
  geometry = make_geometry(args.in, args.layout);
  const Blocks blocks{Config::kRows, Config::kColumns, multiprocessors * Config::kTuning.warps.blocks_per_sm,
                      kLastEach<Pattern>};
  params.producer.pattern = pattern;
  // Rows that go on from earlier results do so once: their keys are not split.
  const bool splits = normalizers::kMerges<Normalizer> && !args.join.accumulate;
  params.producer.accumulate = args.join.accumulate;
  params.producer.selected = selected;
  params.producer.schedule = make_schedule(args.in, args.layout, args.hints, geometry, blocks, splits);
  params.consumer = {Normalizer::from(args.in.normalizer, scale.magnitude), float(scale.sign)};
  params.output = {.out = static_cast<Element*>(out.data),
                   .row_stride = out.shape[2] > 1 ? out.stride[2] : 0,
                   .head_stride = out.shape[1] > 1 ? out.stride[1] : 0,
                   .batch_stride = out.shape[0] > 1 ? out.stride[0] : 0,
                   .statistic = static_cast<float*>(args.statistic.data),
                   .saved = static_cast<float*>(args.saved.data),
                   .saved_stride = q.shape[0] * q.shape[1] * q.shape[2],
                   .partial = nullptr,
                   .partial_lse = nullptr,
                   .num_queries = int(q.shape[2]),
                   .heads = int(q.shape[1]),
                   .head_dim = int(q.shape[3]),
                   .residues = geometry.residues.divisor,
                   .log2_pack = geometry.log2_pack,
                   .accumulate = args.join.accumulate};
  if (!encode_maps<Config>(params.producer.maps, args, geometry))
    return {StatusCode::cuda_error, "the driver refused a tensor map of q, k or v"};

  collective::Schedule& schedule = params.producer.schedule;
  const int grid = std::min(schedule.items, blocks.running);
  const int64_t partial_rows = int64_t(schedule.split_items) * Config::kRows;
  const bool shared_counter = wants_counter(args.in, args.hints, schedule, grid);
  const Workspace workspace(exec, partial_rows * (HeadDim + 1) * 4 + (shared_counter ? 256 : 0));
  if (workspace.missing()) return {StatusCode::cuda_error, "out of memory for the workspace of a call"};
  params.output.partial = reinterpret_cast<float*>(workspace.data());
  params.output.partial_lse = params.output.partial + partial_rows * HeadDim;
  if (shared_counter) {
    schedule.counter = reinterpret_cast<int*>(params.output.partial_lse + partial_rows);
    error = cudaMemsetAsync(schedule.counter, 0, 4, stream);
    if (error != cudaSuccess) return failure(error);
  }

  if (grid > 0) {
    // What follows on a call of the same dispatch may begin while that one ends, but must not meet its workspace.
    params.beside = args.join.beside && workspace.data() == nullptr;
    error = launch_after(params.beside || args.join.accumulate, function, dim3(unsigned(grid)), Config::kThreads,
                         kBytes, stream, params);
  }
  if constexpr (normalizers::kMerges<Normalizer>)
    if (error == cudaSuccess && schedule.split_items > 0) error = launch_combine<Config>(params, stream);
  if (error == cudaSuccess && geometry.packed_sequences())
    error = kernel::launch_fill_unclaimed(params.output, geometry, Normalizer::template empty_statistic<float>(),
                                          Normalizer::kSaved, stream);
  return error == cudaSuccess ? Status{} : failure(error);
}

}  // namespace device
SPLASH_NAMESPACE_END
