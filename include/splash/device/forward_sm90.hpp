// Hopper forward on the host: arguments -> can_run -> tensor maps -> launch.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdio>

#include "splash/device/tensor_map_sm90.hpp"
#include "splash/kernel/forward_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// Reasons why a call cannot run on any Hopper forward instance of this head dimension.
inline Status can_run_forward_sm90(const ForwardArguments& args, int head_dim) {
  if (args.in.q.shape[3] > head_dim || args.in.q.shape[3] % 8)
    return {StatusCode::no_kernel, "the head dimension must be a multiple of 8 and at most that of the instance"};
  static thread_local char reason[160];
  const char* names[] = {"q", "k", "v", "out"};
  const TensorView* views[] = {&args.in.q, &args.in.k, &args.in.v, &args.out};
  for (int n = 0; n < 4; ++n)
    if (const Unmappable why = unmappable(*views[n]); why.reason) {
      std::snprintf(reason, sizeof(reason), "%s cannot be loaded on CUDA: %s; pass %s.%s()", names[n], why.reason,
                    names[n], why.remedy);
      return {StatusCode::invalid_value, reason};
    }
  return {};
}

/// out, statistic and saved are written whole. Asynchronous on exec.stream; needs no workspace.
template <class Pattern, class Normalizer, class Element, int HeadDim, int Block>
Status forward_sm90(const Pattern& pattern, const ForwardArguments& args, const Execution& exec) {
  using Config = collective::ConfigForwardSm90<Pattern, Normalizer, Element, HeadDim, Block>;
  const TensorView& q = args.in.q;
  const TensorView& k = args.in.k;
  const int batch = int(q.shape[0]), heads = int(q.shape[1]), num_queries = int(q.shape[2]), num_keys = int(k.shape[2]);
  if (Status status = can_run_forward_sm90(args, HeadDim); !status.ok()) return status;
  if (batch == 0 || heads == 0 || num_queries == 0) return {};

  const MapView view_q = map_view(q, q.data), view_k = map_view(k, q.data), view_v = map_view(args.in.v, q.data),
                view_o = map_view(args.out, q.data);
  const auto layout_row = typename Config::LayoutQ{}(cute::_, cute::_, cute::_0{});
  const auto layout_k = typename Config::LayoutK{}(cute::_, cute::_, cute::_0{});
  const auto layout_v = typename Config::LayoutV{}(cute::_, cute::_, cute::_0{});
  const auto tma_q = cute::make_tma_copy(cute::SM90_TMA_LOAD{}, row_major<Element>(view_q), layout_row);
  const auto tma_k = cute::make_tma_copy(cute::SM90_TMA_LOAD{}, row_major<Element>(view_k), layout_k);
  const auto tma_v = cute::make_tma_copy(cute::SM90_TMA_LOAD{}, column_major<Element>(view_v), layout_v);
  const auto tma_o = cute::make_tma_copy(cute::SM90_TMA_STORE{}, row_major<Element>(view_o), layout_row);

  using Mainloop =
      collective::MainloopForwardSm90<Config, std::remove_const_t<decltype(tma_q)>,
                                      std::remove_const_t<decltype(tma_k)>, std::remove_const_t<decltype(tma_v)>>;
  using Epilogue = collective::EpilogueForwardSm90<Config, std::remove_const_t<decltype(tma_o)>>;
  using Kernel = kernel::ForwardSm90<Config, Mainloop, Epilogue>;

  const math::SignedScale scale = math::split_scale(args.in.scale);
  const int row_tiles = (num_queries + Config::kRows - 1) / Config::kRows;
  const typename Kernel::Params params{
      {tma_q, tma_k, tma_v, pattern, Normalizer::from(args.in.normalizer, scale.magnitude), float(scale.sign), num_keys,
       int(q.shape[3]), heads / int(k.shape[1]), view_k.fold_head, view_k.fold_batch, view_v.fold_head,
       view_v.fold_batch, view_q.fold_head, view_q.fold_batch},
      {tma_o, static_cast<float*>(args.statistic.data), static_cast<float*>(args.saved.data),
       int64_t(batch) * heads * num_queries, num_queries, heads, int(q.shape[3])},
      args.in.positions,
      num_queries,
      num_keys,
      heads,
      row_tiles};

  constexpr int kBytes = int(sizeof(typename Config::SharedStorage));
  static_assert(kBytes <= 227 * 1024 / Config::kTuning.blocks_per_sm, "more shared memory than a multiprocessor has");
  const auto function = kernel::forward_sm90<Kernel>;
  static std::atomic<uint64_t> prepared{0};  // a bit a device
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess && !(prepared.load() >> (device & 63) & 1)) {
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error == cudaSuccess) prepared.fetch_or(uint64_t(1) << (device & 63));
  }
  if (error == cudaSuccess) {
    function<<<unsigned(batch * heads * row_tiles), Config::kThreads, kBytes, static_cast<cudaStream_t>(exec.stream)>>>(
        params);
    error = cudaGetLastError();
  }
  if (error != cudaSuccess) return {StatusCode::cuda_error, cudaGetErrorString(error)};
  return {};
}

}  // namespace device
SPLASH_NAMESPACE_END
