// Hopper backward epilogue: 64 rows of one or two gradients, to the tensors or, of one range of columns, to the
// workspace.
#pragma once

#include "splash/collective/sm90/backward/config.hpp"
#include "splash/collective/sm90/store_rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct EpilogueBackwardSm90 {
  using Element = typename Config::Element;
  using Output = OutputBackward<Element>;

  __device__ __forceinline__ static void finish(int thread) {
    if (thread == 0) tma_store_wait<0>();
  }

  /// Among the threads of a group.
  __device__ __forceinline__ static void sync() {
    int thread = int(threadIdx.x);
    forget(thread);  // a register less while tiles are worked on
    cutlass::arch::NamedBarrier::sync(128, kStore + thread / 128);
  }

  /// By one consumer warp group, whose part of the tiles of rows in shared memory is free by now. Rows that are padding
  /// are zeros, rows outside the problem are not written at all. Until finish() the tiles are still read.
  template <class Accumulator>
  __device__ __forceinline__ static void store(const Output& to, const MapsBackwardSm90& maps,
                                               typename Config::SharedStorage& shared, const Geometry& geometry,
                                               const WorkTile& work, int buffer, int group, int thread,
                                               const Accumulator& out1, const Accumulator& out2,
                                               const float (&dots)[kFragmentRows]) {
    forget(thread);  // where its rows go is worked out here, not kept while tiles are worked on
    if (work.partial >= 0) {
      store_partial(to, work, 0, group, thread, out1);
      if constexpr (Config::kKeyMajor) store_partial(to, work, 1, group, thread, out2);
    } else if (work.any || !to.adds) {
      stage(to, shared, work, 0, buffer, group, thread, out1);
      if constexpr (Config::kKeyMajor) stage(to, shared, work, 1, buffer, group, thread, out2);
      send<0, Config::kOutputs>(to, maps, shared, geometry, work, buffer, group, thread);
    }
    if constexpr (!Config::kKeyMajor)
      if (to.dots) store_dots(to, geometry, work, group, thread, dots);
  }

  /// The same of one of the outputs, where groups have one each.
  template <int Output, class Accumulator>
  __device__ __forceinline__ static void store_one(const OutputBackward<Element>& to, const MapsBackwardSm90& maps,
                                                   typename Config::SharedStorage& shared, const Geometry& geometry,
                                                   const WorkTile& work, int thread, const Accumulator& out) {
    forget(thread);  // where its rows go is worked out here, not kept while tiles are worked on
    if (work.partial >= 0) {
      store_partial(to, work, Output, 0, thread, out);
    } else if (work.any || !to.adds) {
      stage(to, shared, work, Output, 0, 0, thread, out);
      send<Output, Output + 1>(to, maps, shared, geometry, work, 0, 0, thread);
    }
  }

 private:
  /// A range of columns: float32 rows of the workspace.
  template <class Accumulator>
  __device__ __forceinline__ static void store_partial(const Output& to, const WorkTile& work, int output, int group,
                                                       int thread, const Accumulator& accumulator) {
    const int first = work.row_begin + 64 * group;
    float one[kFragmentRows];
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r)
      one[r] = work.any && first + accumulator_row(thread, r) < work.frame.num_queries ? 1.0f : 0.0f;
    const int64_t row = (int64_t(output) * to.split_items + work.partial) * Config::kRows + 64 * group;
    store_float_rows(to.partial + row * Config::kHeadDim, Config::kHeadDim, thread, accumulator, one);
  }

  /// Where the rows of an output are staged: in place of rows of the piece that its group alone has used; or, where
  /// pieces overlap and the second ones are not free, of the group's dS.
  __device__ __forceinline__ static Element* staging(typename Config::SharedStorage& shared, int output, int buffer,
                                                     int group) {
    if constexpr (Config::kByOutput) output = 1 - output;
    if constexpr (Config::kOverlaps)
      if (output == 1) return shared.ds.begin() + Config::score_tile(0, 0, group) * 64 * 64;
    return shared.rows.begin() + Config::row_tile(output, buffer, group) * 64 * Config::kHeadDim;
  }

  __device__ __forceinline__ static auto tile_of(typename Config::SharedStorage& shared, int output, int buffer,
                                                 int group) {
    return make_tensor(make_smem_ptr(staging(shared, output, buffer, group)), typename Config::LayoutRows{});
  }

  template <class Accumulator>
  __device__ __forceinline__ static void stage(const Output& to, typename Config::SharedStorage& shared,
                                               const WorkTile& work, int output, int buffer, int group, int thread,
                                               const Accumulator& accumulator) {
    float factor[kFragmentRows];
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const bool real = work.any && work.row_begin + 64 * group + accumulator_row(thread, r) < work.frame.num_queries;
      factor[r] = real ? to.gradients[output].scale : 0.0f;
    }
    stage_rows(tile_of(shared, output, buffer, group), thread, accumulator, factor);
  }

  /// By TMA, which leaves out what lies outside of the tensor; rows of packed sequences, which end inside of it, 16
  /// bytes a thread. Nobody else adds to these rows, so that sums repeat bit for bit.
  template <int First, int End>
  __device__ __forceinline__ static void send(const Output& to, const MapsBackwardSm90& maps,
                                              typename Config::SharedStorage& shared, const Geometry& geometry,
                                              const WorkTile& work, int buffer, int group, int thread) {
    const int first = work.row_begin + 64 * group;
    if (geometry.packed_sequences()) {
      sync();
      for (int output = First; output < End; ++output)
        copy_rows<Config::kHeadDim>(tile_of(shared, output, buffer, group), thread, to.head_dim, to.adds, [&](int row) {
          return first + row < work.row_count ? to.at(output, geometry, work, first + row) : nullptr;
        });
      cutlass::arch::fence_view_async_shared();
      return;
    }
    cutlass::arch::fence_view_async_shared();
    sync();
    if (thread != 0 || first >= work.row_count) return;
    const bool later = work.queries.inner >= maps.long_query_classes;
    const int head = Config::kKeyMajor ? work.frame.head / geometry.group : work.frame.head;
    const int inner = work.queries.inner - (later ? maps.long_query_classes : 0);
    const Place at = Config::kKeyMajor ? key_place(geometry, {work.queries.outer, inner}, first)
                                       : Place{work.queries.outer + first, inner};
    CUTE_UNROLL
    for (int output = First; output < End; ++output) {
      CUTE_UNROLL
      for (int c = 0; c < Config::kHeadDim; c += Config::kBoxColumns) {
        const auto* map = &maps.out[output][later];
        const auto* rows = staging(shared, output, buffer, group) + c * 64;
        if (to.adds)
          SM90_TMA_REDUCE_ADD_5D::copy(map, rows, c, at.inner, at.outer, head, work.frame.batch);
        else
          SM90_TMA_STORE_5D::copy(map, rows, c, at.inner, at.outer, head, work.frame.batch);
      }
    }
    tma_store_arrive();
  }

  __device__ __forceinline__ static void store_dots(const Output& to, const Geometry& geometry, const WorkTile& work,
                                                    int group, int thread, const float (&dots)[kFragmentRows]) {
    const QuadReduce reduce;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const float sum = reduce.sum(dots[r]);
      const int row = 64 * group + accumulator_row(thread, r), index = work.row_begin + row;
      if ((thread & 3) != 0) continue;
      const float value = work.any && index < work.frame.num_queries ? sum : 0.0f;
      if (work.partial >= 0)
        to.partial_dots[int64_t(work.partial) * Config::kRows + row] = value;
      else if (index < work.row_count)
        to.dots[query_at(geometry, work.frame, work.frame.head, work.queries, index)] = value;
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
