// dQ of the fused Hopper backward: dS of all keys of a piece meets in shared memory, and each consumer group multiplies
// half of dS^T K of a tile of queries.
#pragma once

#include "splash/collective/sm90/backward/gradients.hpp"
#include "splash/collective/sm90/store_rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

template <class Config>
struct FusedQueriesSm90 : GradientsSm90<Config> {
  using Base = GradientsSm90<Config>;
  using Base::group, Base::params, Base::release, Base::shared, Base::thread;
  using Element = typename Config::Element;
  using typename Base::Queries;

  Ring<Config::kScoreBuffers> ds_written_{};

  using Base::Base;

  /// Of K, those that nobody keeps: 0 dS times NaN must not reach dQ. S of such rows is masked, so it may be under way;
  /// dQ waits for what every warp publishes afterwards.
  __device__ __forceinline__ void zero_unread_rows(int work, int buffer) const {
    const unsigned unread = shared.unread_rows[work][2 * group + (thread >> 5 & 1)];
    if (unread == 0) return;
    Tensor rows = make_tensor(make_smem_ptr(shared.rows.begin()), typename Config::LayoutRowTiles{});  // (64, D, tile)
    if (unread >> (thread & 31) & 1)
#pragma unroll 1
      for (int d = thread >> 6 << 3; d < Config::kHeadDim; d += 16)
        *reinterpret_cast<uint4*>(&rows(thread & 63, d, Config::row_tile(0, buffer, group))) = make_uint4(0, 0, 0, 0);
    cutlass::arch::fence_view_async_shared();
  }

 protected:
  using Base::first_, Base::read_note;
  using typename Base::Note;

  /// Waits for the tile in the current K stage, of which none passes; the tile of dQ that it adds to.
  __device__ __forceinline__ int read_query_tile(Note& note) const {
    read_note(note);
    return shared.query_tile[first_.slot()];
  }

  /// Of the dS that was written `ahead` of the next one, 1 or 2.
  __device__ __forceinline__ int ds_slot(int ahead) const { return ds_written_.slot() ^ (ahead & 1); }
  __device__ __forceinline__ unsigned ds_phase(int ahead) const {
    return ds_written_.phase() ^ (ahead > ds_written_.slot());
  }

  /// dS of the group's 64 keys, for both groups.
  template <class Scores>
  __device__ __forceinline__ void publish(const Scores& ds) {
    const int slot = ds_written_.slot();
    wait(shared.ds_empty[slot], ds_written_.phase() ^ 1);
    // (64 queries, 64 keys, tile); rows of four 8 x 8 matrices as in stage_rows().
    Tensor tile = make_tensor(make_smem_ptr(shared.ds.begin()), typename Config::LayoutS{});
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(ds.data());
    int lane = thread;
    forget(lane);
    const int key = (lane >> 5) * 16 + (lane & 15), query = (lane >> 4 & 1) * 8;
    CUTE_UNROLL
    for (int n = 0; n < Config::kColumns / 8; n += 2)
      SM90_U32x4_STSM_N::copy(
          pairs[2 * n], pairs[2 * n + 1], pairs[2 * n + 2], pairs[2 * n + 3],
          *reinterpret_cast<uint128_t*>(&tile(query + 8 * n % 64, key, Config::score_tile(n / 8, slot, group))));
    cutlass::arch::fence_view_async_shared();
    release(shared.ds_full[slot]);
    ds_written_.advance();
  }

  /// This group's half of dQ of the tile whose dS was written `ahead` of the next one; of nothing where there is none.
  template <class Output>
  __device__ __forceinline__ void start_queries(int buffer, int ahead, bool any, Output& dq) {
    Tensor tile = make_tensor(make_smem_ptr(shared.ds.begin()), typename Config::LayoutS{});
    Tensor keys = make_tensor(make_smem_ptr(shared.rows.begin()), typename Config::LayoutPart{});
    typename Config::MmaQueries mma;
    auto slice = mma.get_thread_slice(thread);
    int part = Config::score_tile(Config::kQueryParts > 1 ? group : 0, ds_slot(ahead), 0);
    int first = Config::row_tile(0, Config::kRowBuffers > 1 ? buffer : 0, 0) * Config::kDimParts +
                (Config::kDimParts > 1 ? group : 0);
    forget(part, first);
    if (any) wait(shared.ds_full[ds_slot(ahead)], ds_phase(ahead));
    warpgroup_fence_operand(dq);
    warpgroup_arrive();
    mma.accumulate_ = GMMA::ScaleOut::Zero;
    CUTE_UNROLL
    for (int rows = 0; rows < Config::kConsumers; ++rows) {
      Tensor a = slice.partition_fragment_A(tile(_, _, part + Config::score_tile(0, 0, rows)));
      Tensor b = slice.partition_fragment_B(keys(_, _, first + rows * Config::kDimParts));
      CUTE_UNROLL
      for (int n = 0; n < 4; ++n) {
        cute::gemm(mma, a(_, _, n), b(_, _, n), dq);
        mma.accumulate_ = GMMA::ScaleOut::One;
      }
    }
    warpgroup_commit_batch();
  }

  /// Once that product has ended. Every instruction of a warp adds to 512 bytes in a row.
  template <class Output>
  __device__ __forceinline__ void add_queries(int query_tile, const Output& dq) {
    if constexpr (Config::kCloses) {
      store_queries(query_tile, dq);
      return;
    }
    constexpr int kQuads = decltype(size(dq))::value / 4;
    float4* to = params.queries + ((int64_t(query_tile) * Config::kConsumers + group) * kQuads) * 128 + thread;
    CUTE_UNROLL
    for (int n = 0; n < kQuads; ++n)
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + n * 128), "f"(dq(4 * n)),
                   "f"(dq(4 * n + 1)), "f"(dq(4 * n + 2)), "f"(dq(4 * n + 3))
                   : "memory");
  }

  /// This group's half of a whole tile of dQ.
  template <class Output>
  __device__ __forceinline__ void store_queries(int query_tile, const Output& dq) const {
    const Queries& to = params.closed;
    const int line = to.tiles.quotient(query_tile), batch = to.heads.quotient(line);
    const int first =
        (query_tile - line * to.tiles.divisor) * Config::kColumns + (Config::kQueryParts > 1 ? 64 * group : 0);
    const int begin = Config::kDimParts > 1 ? Config::kPartDim * group : 0;
    Element* const head = to.data + batch * to.batch_stride + (line - batch * to.heads.divisor) * to.head_stride;
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      const int row = first + accumulator_row(thread, r);
      if (row >= to.num_queries) continue;
      Element* const at = head + row * to.row_stride + begin;
      const float factor[kFragmentRows] = {to.scale, to.scale};
      CUTE_UNROLL
      for (int c = 0; c < size(dq) / kFragmentRows; c += 2) {
        const int column = accumulator_column(thread & 31, c);
        if (begin + column < to.head_dim)
          *reinterpret_cast<uint32_t*>(at + column) = pair_of<Element>(dq, r, c, factor);
      }
    }
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
