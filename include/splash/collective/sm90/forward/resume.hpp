// Hopper forward rows that go on where an earlier call stopped, which attended to other keys: they start from its
// output and log-sum-exp in place of nothing, as if its keys had been the first tiles.
#pragma once

#include "splash/collective/sm90/forward/epilogue.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

template <class Config>
class ResumeForwardSm90 {
 public:
  using Element = typename Config::Element;
  using Output = OutputForward<Element>;
  static_assert(Config::kHeadDim % 32 == 0, "a quad of lanes loads 32 columns at a time");

  /// By one consumer warp group: asks for what put() needs, which takes a while to arrive.
  __device__ __forceinline__ void fetch(const Output& from, const WorkTile& work, bool packed_sequences, int group,
                                        int thread) {
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const int index = work.row_begin + 64 * group + accumulator_row(thread, r);
      const auto row = from.locate(work, packed_sequences, index);
      lse_[r] = -math::kInfinity<float>;
      if (index < work.row_count) lse_[r] = from.statistic[from.statistic_at(row)];
      const int first = 8 * (thread & 3);
      CUTE_UNROLL
      for (int n = 0; n < kChunks; ++n) {
        chunks_[r][n] = make_uint4(0, 0, 0, 0);
        if (index < work.row_count && 32 * n + first < from.head_dim)
          chunks_[r][n] = *reinterpret_cast<const uint4*>(from.at(row) + 32 * n + first);
      }
    }
  }

  /// Before anything was added to `output` and `rows`.
  template <class Accumulator, class Rows>
  __device__ __forceinline__ void put(int thread, Accumulator& output, Rows& rows) const {
    const int quad_lane = thread & 3;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      rows.resume(r, lse_[r], quad_lane == 0);
      CUTE_UNROLL
      for (int n = 0; n < kChunks; ++n) {
        uint32_t pairs[4] = {chunks_[r][n].x, chunks_[r][n].y, chunks_[r][n].z, chunks_[r][n].w};
        transpose_in_quad(pairs, quad_lane);
        CUTE_UNROLL
        for (int block = 0; block < 4; ++block) {
          const auto& pair = reinterpret_cast<const cutlass::Array<Element, 2>&>(pairs[block]);
          const int c = 8 * n + 2 * block;  // of the thread's columns, two in each block of 8
          output(accumulator_register(r, c)) = float(pair[0]);
          output(accumulator_register(r, c + 1)) = float(pair[1]);
        }
      }
    }
  }

 private:
  /// Word n of lane l becomes word l of lane n.
  __device__ __forceinline__ static void transpose_in_quad(uint32_t (&words)[4], int lane) {
    CUTE_UNROLL
    for (int step = 1; step < 4; step *= 2) {
      const bool upper = lane & step;
      CUTE_UNROLL
      for (int n = 0; n < 4; ++n) {
        if (n & step) continue;
        const uint32_t got = __shfl_xor_sync(~0u, upper ? words[n] : words[n | step], step);
        words[n] = upper ? got : words[n];
        words[n | step] = upper ? words[n | step] : got;
      }
    }
  }

  static constexpr int kChunks = Config::kHeadDim / 32;
  uint4 chunks_[kFragmentRows][kChunks];
  float lse_[kFragmentRows];
};

}  // namespace collective
SPLASH_NAMESPACE_END
