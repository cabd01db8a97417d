// The forward by lists of candidates on the host: find them, weigh them, and sweep over what has too many.
#pragma once

#include "splash/device/rows_of.hpp"
#include "splash/device/sm90/sweep_forward.hpp"
#include "splash/kernel/candidate_rows.hpp"
#include "splash/kernel/sm90/candidates.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

template <int HeadDim, class Element, class Normalizer>
cudaError_t launch_candidate_rows(const kernel::CandidateRowsParams<Element, Normalizer>& params, int batches,
                                  cudaStream_t stream) {
  constexpr int kThreads = kListBlock * kernel::RowLanes<Element, HeadDim>::kLanes,
                kBytes = 3 * kListBlock * kCandidates * 4;
  int multiprocessors = 0;
  constexpr auto kFunction = kernel::candidate_rows<Element, Normalizer, HeadDim>;
  if (params.blocks.count(batches) == 0) return cudaSuccess;
  if (cudaError_t error = prepare_launch<kFunction>(kBytes, multiprocessors); error != cudaSuccess) return error;
  kFunction<<<unsigned(params.blocks.count(batches)), kThreads, kBytes, stream>>>(params);
  return cudaGetLastError();
}

/// Candidates lie in `saved` until lists take their place. Workspace: 4 bytes a row, and 512 for each tile of columns
/// and consumer group of a multiprocessor. The call fits, and has rows.
template <class Pattern, class Normalizer, class Element, int HeadDim, tuning::Spans Span>
Status list_forward_sm90(const Pattern& pattern, const ForwardArguments& args, const Execution& exec) {
  using Config = collective::ConfigCandidatesSm90<Pattern, Normalizer, Element, HeadDim, Span>;
  constexpr int kBytes = int(sizeof(typename Config::SharedStorage));
  static_assert(kBytes <= Config::kTuning.shared_limit(), "more shared memory than a multiprocessor has");
  const TensorView& q = args.in.q;
  const auto stream = static_cast<cudaStream_t>(exec.stream);
  constexpr auto kFunction = kernel::candidates_sm90<Config>;
  int multiprocessors = 0;
  if (cudaError_t error = prepare_launch<kFunction>(kBytes, multiprocessors); error != cudaSuccess)
    return failure(error);

  const math::SignedScale scale = math::split_scale(args.in.scale);
  const Normalizer normalizer = Normalizer::from(args.in.normalizer, scale.magnitude);
  kernel::ParamsCandidatesSm90<Config> params{};
  collective::Geometry& geometry = params.producer.geometry;
  geometry = make_geometry(args.in, args.layout);
  const Blocks blocks{Config::kRows, Config::kColumns, multiprocessors * Config::kTuning.warps.blocks_per_sm,
                      kLastEach<Pattern>};
  collective::Schedule& schedule = params.producer.schedule;
  schedule = make_schedule(args.in, args.layout, args.hints, geometry, blocks, false);
  params.producer.pattern = pattern;
  if (!encode_maps<Config>(params.producer.maps, args, geometry))
    return {StatusCode::cuda_error, "the driver refused a tensor map of q, k or v"};

  const int grid = std::min(schedule.items, blocks.running);
  const int64_t rows = q.shape[0] * q.shape[1] * q.shape[2], lines = q.shape[0] * q.shape[1];
  const int64_t keys = geometry.keys_in_runs ? geometry.keys_in_runs : geometry.num_keys;
  const int64_t tiles = (keys + Config::kColumns - 1) / Config::kColumns;
  const int64_t last_tile = std::max<int64_t>(tiles - 1, 0);
  while (last_tile >> params.producer.log2_marked >= tuning::kTileMarks) ++params.producer.log2_marked;
  const int marks = int(last_tile >> params.producer.log2_marked) + 1;
  const int64_t bytes_of_counts = rows * kCandidateParts,
                bytes_of_flags = lines * CandidateLists::chunks(int(q.shape[2])),
                zeros = (bytes_of_counts + bytes_of_flags + 15) / 16 * 16 + 16,
                bytes_of_maxima = int64_t(grid) * Config::kConsumers * marks * 128 * 4;
  const Workspace workspace(exec, bytes_of_maxima + zeros);
  if (workspace.missing()) return {StatusCode::cuda_error, "out of memory for the workspace of a call"};
  auto* maxima = workspace.data();
  auto* counts = reinterpret_cast<unsigned char*>(maxima + bytes_of_maxima);
  int* numbers = reinterpret_cast<int*>(counts + zeros - 16);
  const CandidateLists lists{.keys = static_cast<uint32_t*>(args.saved.data) + 4 * rows,
                             .rows = rows,
                             .counts = counts,
                             .flags = counts + bytes_of_counts,
                             .any_flag = numbers};
  cudaError_t error = cudaMemsetAsync(counts, 0, size_t(zeros), stream);
  if (error != cudaSuccess) return failure(error);
  if (wants_counter(args.in, args.hints, schedule, grid)) schedule.counter = numbers + 1;

  params.consumer.normalizer = normalizer;
  params.consumer.sign = float(scale.sign);
  auto& output = params.consumer.output;
  output.lists = lists;
  output.rows.num_queries = int(q.shape[2]);
  output.rows.heads = int(q.shape[1]);
  output.rows.residues = geometry.residues.divisor;
  output.rows.log2_pack = geometry.log2_pack;
  output.tile_maxima = reinterpret_cast<uint32_t*>(maxima);
  output.marks = marks;
  if (grid > 0) error = launch_after(false, +kFunction, dim3(unsigned(grid)), Config::kThreads, kBytes, stream, params);

  const HeadRange& heads = args.layout.heads;
  const kernel::CandidateRowsParams<Element, Normalizer> finish{
      .q = rows_of<const Element>(q),
      .k = rows_of<const Element>(args.in.k),
      .v = rows_of<const Element>(args.in.v),
      .out = rows_of<Element>(args.out),
      .candidates = lists,
      .statistic = static_cast<float*>(args.statistic.data),
      .saved = static_cast<float*>(args.saved.data),
      .rows = rows,
      .normalizer = normalizer,
      .sign = float(scale.sign),
      .heads = int(q.shape[1]),
      .group = geometry.group,
      .num_queries = int(q.shape[2]),
      .head_dim = int(q.shape[3]),
      .blocks = {(int(q.shape[2]) + kListBlock - 1) / kListBlock, int(heads.count > 0 ? heads.count : q.shape[1]),
                 int(heads.first), int(heads.step)}};
  if (error == cudaSuccess) error = launch_candidate_rows<HeadDim>(finish, int(q.shape[0]), stream);
  if (error != cudaSuccess) return failure(error);
  return sweep_forward_sm90<Pattern, Normalizer, Element, HeadDim, Span>(pattern, args, exec, lists);
}

}  // namespace device
SPLASH_NAMESPACE_END
