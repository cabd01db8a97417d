// Hopper forward epilogue: 64 rows of O to global memory in the dtype of q, and their statistics.
#pragma once

#include <cutlass/numeric_conversion.h>

#include "splash/collective/config_forward_sm90.hpp"
#include "splash/collective/fragment_sm90.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config, class TmaO>
struct EpilogueForwardSm90 {
  using Element = typename Config::Element;
  using Normalizer = typename Config::Normalizer;

  struct Params {
    TmaO tma_o;
    float* statistic;      ///< (B, Hq, Nq)
    float* saved;          ///< (kSaved, B, Hq, Nq)
    int64_t saved_stride;  ///< B * Hq * Nq
    int num_queries, heads, head_dim;
  };

  /// By one consumer warp group, whose part of the Q tile in shared memory is free by now. Rows that are padding are
  /// written as zeros, rows outside the tensor not at all.
  template <class Output, class Rows>
  __device__ static void store(const Params& params, typename Config::SharedStorage& shared,
                               const Normalizer& normalizer, const Frame& frame, int row_begin, int group, int thread,
                               const Output& output, const Rows& rows) {
    const int lane = thread & 31;
    const int first_row = row_begin + 64 * group;
    Tensor sO = make_tensor(make_smem_ptr(shared.q.begin()), typename Config::LayoutQ{})(_, _, group);  // (64, D)
    CUTE_STATIC_ASSERT_V(size<0>(sO) == _64{});
    cutlass::NumericArrayConverter<Element, float, 2> convert;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const int row = accumulator_row(thread, r);
      const bool real = first_row + row < frame.num_queries;
      CUTE_UNROLL
      for (int c = 0; c < size(output) / kFragmentRows; c += 2) {
        const cutlass::Array<float, 2> pair{real ? output(accumulator_register(r, c)) : 0.0f,
                                            real ? output(accumulator_register(r, c + 1)) : 0.0f};
        *reinterpret_cast<cutlass::Array<Element, 2>*>(&sO(row, accumulator_column(lane, c))) = convert(pair);
      }
      if ((lane & 3) == 0 && first_row + row < params.num_queries) {
        const int64_t at = (int64_t(frame.batch) * params.heads + frame.head) * params.num_queries + first_row + row;
        params.statistic[at] = real ? rows.statistic(normalizer, r) : Normalizer::template empty_statistic<float>();
        CUTE_UNROLL
        for (int s = 0; s < Normalizer::kSaved; ++s)
          params.saved[s * params.saved_stride + at] = real ? rows.saved(r, s) : 0.0f;
      }
    }
    cutlass::arch::fence_view_async_shared();
    cutlass::arch::NamedBarrier::sync(128, kStore + group);
    if (thread == 0) {
      Tensor gO = local_tile(params.tma_o.get_tma_tensor(make_shape(1 << 30, params.head_dim, 1 << 16, 1 << 16))(
                                 _, _, frame.head, frame.batch),
                             Shape<_64, Int<Config::kHeadDim>>{}, make_coord(first_row / 64, _0{}));  // (64, D)
      auto slice = params.tma_o.get_slice(_0{});
      copy(params.tma_o, slice.partition_S(sO), slice.partition_D(gO));
      tma_store_arrive();
      tma_store_wait<0>();
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
