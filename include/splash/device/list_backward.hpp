// The backward of rows whose keys are listed on the host: workspace, lists, and what is not listed. For any GPU.
#pragma once

#include <algorithm>

#include "splash/core/head_groups.hpp"
#include "splash/device/launch.hpp"
#include "splash/device/rows_of.hpp"
#include "splash/device/schedule.hpp"
#include "splash/device/workspace.hpp"
#include "splash/kernel/unlisted_backward.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

template <int HeadDim, class Element, class Normalizer>
cudaError_t launch_list_backward(const kernel::ListBackwardParams<Element, Normalizer>& params, int batches,
                                 cudaStream_t stream) {
  using Params = kernel::ListBackwardParams<Element, Normalizer>;
  using Lanes = kernel::RowLanes<Element, HeadDim>;
  constexpr int kBytes = 3 * 4 * kListBlock * kCandidates, kGroups = kernel::kListThreads / Lanes::kLanes;
  constexpr auto kQueries = kernel::list_queries<Element, Normalizer, HeadDim>;
  int multiprocessors = 0;
  if (cudaError_t error = prepare_launch<kQueries>(kBytes, multiprocessors); error != cudaSuccess) return error;
  const auto rows = unsigned(params.blocks.count(batches));
  const int64_t lines = int64_t(batches) * params.key_heads, keys = lines * params.num_keys;
  const unsigned many = unsigned(std::min<int64_t>(multiprocessors, keys));
  kernel::count_keys<Params><<<rows, kernel::kListThreads, 0, stream>>>(params);
  kernel::index_keys<Params><<<unsigned(lines), 1024, 0, stream>>>(params);
  kQueries<<<rows, kListBlock * Lanes::kLanes, kBytes, stream>>>(params);
  if (params.ordered) {
    constexpr int kWarps = kernel::kListThreads / 32;
    kernel::order_keys<Params>
        <<<unsigned((keys + kWarps - 1) / kWarps), kernel::kListThreads, 0, stream>>>(params, keys);
    kernel::order_many<Params><<<many, kernel::kListThreads, 0, stream>>>(params);
  }
  const unsigned blocks = unsigned(lines * ((params.num_keys + kGroups - 1) / kGroups));
  kernel::list_keys<Element, Normalizer, HeadDim>
      <<<blocks + many, kernel::kListThreads, 0, stream>>>(params, int(many));
  return cudaGetLastError();
}

/// grad_q, grad_k and grad_v are written whole, but for heads that the call is not about. Workspace: for a row
/// kListedKeys entries and 4 bytes, twice as many entries where exec.deterministic, and 16 bytes for a key.
template <class Pattern, class Normalizer, class Element, int HeadDim>
Status list_backward(const Pattern& pattern, const BackwardArguments& args, const Execution& exec) {
  const TensorView &q = args.in.q, &k = args.in.k;
  const auto stream = static_cast<cudaStream_t>(exec.stream);
  const HeadGroups groups = groups_of(args.layout.heads, q.shape[1], q.shape[1] / k.shape[1]);
  const int batches = int(q.shape[0]), heads = int(args.layout.heads.count > 0 ? args.layout.heads.count : q.shape[1]);
  const int64_t rows = q.shape[0] * q.shape[1] * q.shape[2], keys = q.shape[0] * groups.count * k.shape[2];
  const int64_t entries = q.shape[0] * groups.count * groups.members * q.shape[2] * kListedKeys;
  if (entries > int64_t(0xffffffff))
    return {StatusCode::no_kernel,
            "entmax on CUDA numbers the places of its lists by 32 bits: (B, Hq, Nq) is too large"};
  const bool orders = exec.deterministic;
  const auto padded = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const int64_t of_keys = padded(keys * 4), of_many = padded(keys * 4 + 8), of_entries = padded(entries * 8);
  Workspace workspace(exec, 3 * of_keys + of_many + of_entries * (1 + orders) + rows * 4);
  if (workspace.missing()) return {StatusCode::cuda_error, "out of memory for the workspace of a call"};
  const math::SignedScale scale = math::split_scale(args.in.scale);
  kernel::UnlistedParams<Pattern, Element, Normalizer> params{
      .lists = {.q = rows_of<const Element>(q),
                .k = rows_of<const Element>(k),
                .v = rows_of<const Element>(args.in.v),
                .grad_out = rows_of<const Element>(args.grad_out),
                .grad_q = rows_of<Element>(args.grad_q),
                .grad_k = rows_of<Element>(args.grad_k),
                .grad_v = rows_of<Element>(args.grad_v),
                .lists = {static_cast<uint32_t*>(args.saved.data), rows},
                .statistic = static_cast<const float*>(args.statistic.data),
                .saved = static_cast<const float*>(args.saved.data),
                .grad_statistic = static_cast<const float*>(args.grad_statistic.data),
                .counts = reinterpret_cast<uint32_t*>(workspace.take(of_keys)),
                .cursors = nullptr,
                .begins = nullptr,
                .many = nullptr,
                .any_unlisted = nullptr,
                .entries = nullptr,
                .ordered = nullptr,
                .normalizer = Normalizer::from(args.in.normalizer, scale.magnitude),
                .scale = float(args.in.scale),
                .heads = int(q.shape[1]),
                .group = int(q.shape[1] / k.shape[1]),
                .num_queries = int(q.shape[2]),
                .num_keys = int(k.shape[2]),
                .head_dim = int(q.shape[3]),
                .blocks = {(int(q.shape[2]) + kListBlock - 1) / kListBlock, heads, int(args.layout.heads.first),
                           int(args.layout.heads.step)},
                .first_key_head = int(groups.first),
                .key_head_step = int(groups.step),
                .key_heads = int(groups.count),
                .members = int(groups.members),
                .adds_keys = args.join.adds_keys},
      .pattern = pattern,
      .queries = make_geometry(args.in, args.layout, false, false),
      .keys = make_geometry(args.in, args.layout, true, false),
      .by_queries = {},
      .by_keys = {},
      .deltas = nullptr,
      .sign = float(scale.sign)};
  auto& lists = params.lists;
  int* many = reinterpret_cast<int*>(workspace.take(of_many));
  lists.any_unlisted = many;
  lists.many = reinterpret_cast<uint32_t*>(many) + 1;
  lists.cursors = reinterpret_cast<uint32_t*>(workspace.take(of_keys));
  lists.begins = reinterpret_cast<uint32_t*>(workspace.take(of_keys));
  lists.entries = reinterpret_cast<kernel::KeyEntry*>(workspace.take(of_entries));
  if (orders) lists.ordered = reinterpret_cast<kernel::KeyEntry*>(workspace.take(of_entries));
  params.deltas = reinterpret_cast<float*>(workspace.take(rows * 4));

  cudaError_t error = cudaMemsetAsync(lists.counts, 0, size_t(of_keys + 8), stream);  // and what `many` begins with
  if (error == cudaSuccess) error = launch_list_backward<HeadDim>(lists, batches, stream);
  if (error != cudaSuccess) return failure(error);

  using Lanes = kernel::RowLanes<Element, HeadDim>;
  constexpr int kGroups = kernel::kListThreads / Lanes::kLanes, kBlocks = 4;
  constexpr auto kQueries = kernel::unlisted_queries<Pattern, Element, Normalizer, HeadDim>;
  int multiprocessors = 0;
  error = prepare_launch<kQueries>(0, multiprocessors);
  if (error != cudaSuccess) return failure(error);
  const int running = multiprocessors * kBlocks;
  params.by_queries = make_schedule(args.in, args.layout, args.hints, params.queries, {kListBlock, 64, running}, false);
  params.by_keys = make_schedule(args.in, args.layout, args.hints, params.keys, {kGroups, 64, running}, false);
  kQueries<<<unsigned(running), kernel::kListThreads, 0, stream>>>(params);
  kernel::unlisted_keys<Pattern, Element, Normalizer, HeadDim>
      <<<unsigned(running), kernel::kListThreads, 0, stream>>>(params);
  error = cudaGetLastError();
  return error == cudaSuccess ? Status{} : failure(error);
}

}  // namespace device
SPLASH_NAMESPACE_END
