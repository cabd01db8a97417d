// Hopper forward epilogue: 64 rows of O and their statistics, to the tensors or, of one range of keys, to the
// workspace.
#pragma once

#include "splash/collective/sm90/forward/config.hpp"
#include "splash/collective/sm90/store_rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct EpilogueForwardSm90 {
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;
  using Output = OutputForward<Element>;

  /// Until the thread that stores has called this, the Q tile of the last store() is still read.
  __device__ __forceinline__ static void finish(int thread) {
    if (thread == 0) tma_store_wait<0>();
  }

  /// By one consumer warp group, whose part of the Q tile in shared memory is free by now. Rows that are padding are
  /// written as zeros, rows outside the problem not at all.
  template <class Accumulator, class Rows>
  __device__ __forceinline__ static void store(const Output& to, const MapsForwardSm90& maps,
                                               typename Config::SharedStorage& shared, const Normalizer& normalizer,
                                               const WorkTile& work, bool packed_sequences, int buffer, int group,
                                               int thread, Accumulator& output, const Rows& rows) {
    const int first = work.row_begin + 64 * group;
    const int real_rows = work.frame.num_queries << to.log2_pack;
    float factor[kFragmentRows];
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const int index = first + accumulator_row(thread, r);
      const int head = to.locate(work, packed_sequences, index).head;
      const bool real = (work.any || to.accumulate) && index < real_rows, final = work.partial < 0;
      const Normalizer own = final && index < work.row_count ? normalizers::of_head(normalizer, head) : normalizer;
      factor[r] = real ? rows.output_factor(own, r) : 0.0f;
    }
    if (work.partial >= 0)
      store_partial(to, work, group, thread, output, factor);
    else
      store_rows(to, maps, shared, work, packed_sequences, buffer, group, thread, output, factor);
  }

  /// What a row leaves beside its output; at any time before the WorkTile goes.
  template <class Rows>
  __device__ __forceinline__ static void store_statistics(const Output& to, const Normalizer& normalizer,
                                                          const WorkTile& work, bool packed_sequences, int group,
                                                          int thread, const Rows& rows) {
    if ((thread & 3) != 0) return;
    const int first = work.row_begin + 64 * group;
    const int real_rows = work.frame.num_queries << to.log2_pack;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const int index = first + accumulator_row(thread, r);
      if (index >= work.row_count) continue;
      const bool real = (work.any || to.accumulate) && index < real_rows;
      const float statistic = real ? rows.statistic(normalizer, r) : Normalizer::template empty_statistic<float>();
      if (work.partial >= 0) {
        to.partial_lse[int64_t(work.partial) * Config::kRows + 64 * group + accumulator_row(thread, r)] = statistic;
      } else {
        const int64_t at = to.statistic_at(to.locate(work, packed_sequences, index));
        to.statistic[at] = statistic;
        CUTE_UNROLL
        for (int s = 0; s < Normalizer::kSaved; ++s)
          to.saved[s * to.saved_stride + at] = real ? rows.saved(r, s) : 0.0f;
      }
    }
  }

 private:
  template <class Accumulator>
  __device__ __forceinline__ static void store_partial(const Output& to, const WorkTile& work, int group, int thread,
                                                       const Accumulator& output,
                                                       const float (&factor)[kFragmentRows]) {
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      if (work.row_begin + 64 * group + accumulator_row(thread, r) >= work.row_count) continue;
      float* row = to.partial +
                   (int64_t(work.partial) * Config::kRows + 64 * group + accumulator_row(thread, r)) * Config::kHeadDim;
      CUTE_UNROLL
      for (int c = 0; c < size(output) / kFragmentRows; c += 2)
        *reinterpret_cast<float2*>(row + accumulator_column(thread & 31, c)) =
            make_float2(scaled(output(accumulator_register(r, c)), factor[r]),
                        scaled(output(accumulator_register(r, c + 1)), factor[r]));
    }
  }

  /// Through shared memory: by TMA, which leaves out what lies outside of the tensor; of packed sequences, whose rows
  /// end inside of it, 16 bytes a thread.
  template <class Accumulator>
  __device__ __forceinline__ static void store_rows(const Output& to, const MapsForwardSm90& maps,
                                                    typename Config::SharedStorage& shared, const WorkTile& work,
                                                    bool packed_sequences, int buffer, int group, int thread,
                                                    const Accumulator& output, const float (&factor)[kFragmentRows]) {
    Tensor sO = make_tensor(make_smem_ptr(shared.rows.begin()), typename Config::LayoutRowTiles{})(
        _, _, buffer * Config::kConsumers + group);  // (64, D)
    CUTE_STATIC_ASSERT_V(size<0>(sO) == _64{});
    stage_rows(sO, thread, output, factor);
    const int first = work.row_begin + 64 * group;
    if (packed_sequences) {
      cutlass::arch::NamedBarrier::sync(128, kStore + group);
      constexpr int kChunk = 16 / int(sizeof(Element)), kChunks = Config::kHeadDim / kChunk;
#pragma unroll 1
      for (int n = thread; n < 64 * kChunks; n += 128) {
        const int row = n / kChunks, column = n % kChunks * kChunk;
        if (first + row < work.row_count && column < to.head_dim)
          *reinterpret_cast<uint4*>(to.at(to.locate(work, true, first + row)) + column) =
              *reinterpret_cast<const uint4*>(&sO(row, column));
      }
      cutlass::arch::fence_view_async_shared();
    } else {
      cutlass::arch::fence_view_async_shared();
      cutlass::arch::NamedBarrier::sync(128, kStore + group);
      if (thread == 0 && first < work.row_count) {
        const bool later = work.queries.inner >= maps.long_query_classes;
        CUTE_UNROLL
        for (int c = 0; c < Config::kHeadDim; c += Config::kBoxColumns)
          SM90_TMA_STORE_5D::copy(
              &maps.out[later],
              shared.rows.begin() + (buffer * Config::kConsumers + group) * 64 * Config::kHeadDim + c * 64, c,
              work.queries.inner - (later ? maps.long_query_classes : 0), work.queries.outer + (first >> to.log2_pack),
              work.frame.head >> to.log2_pack, work.frame.batch);
        tma_store_arrive();
      }
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
