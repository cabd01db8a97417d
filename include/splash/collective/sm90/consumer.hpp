// What the Hopper consumers of both passes do alike: they read what the producers say of a tile, mask its scores, ask
// for products, and take turns.
//
// Passing. A group lets tiles pass of which its rows keep nothing; it holds no stage then, since the producers may need
// it for one of those.
#pragma once

#include <cutlass/numeric_conversion.h>

#include "splash/collective/sm90/fragment.hpp"
#include "splash/collective/sm90/tiles.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

using namespace cute;

template <class Config>
struct ConsumerSm90 {
  using Element = typename Config::Element;
  using SharedStorage = typename Config::SharedStorage;

  SharedStorage& shared;
  int group, thread;

  Ring<Config::kFirstStages> first_{};
  Ring<Config::kSecondStages> second_{};
  Ring<Config::kMaskSlots> mask_{};

  __device__ __forceinline__ ConsumerSm90(SharedStorage& shared, int group, int thread)
      : shared(shared), group(group), thread(thread) {}

  /// To be called once before the first piece of work.
  __device__ __forceinline__ void start_turns() const {
    if (group == Config::kConsumers - 1) pass_turn();
  }

  /// Says for each warp that it is done with what the barrier guards.
  __device__ __forceinline__ void release(cutlass::arch::ClusterBarrier& empty) const {
    __syncwarp();
    if ((thread & 31) == 0) arrive(empty);
  }

 protected:
  /// A TileNote as this group sees it.
  struct Note {
    int state = 0;
    bool masked = false, last = false;
  };

  /// Waits for the tile in a K stage, the current one; whether it has scores for this group.
  __device__ __forceinline__ bool read_note(Note& note) const { return read_note(note, first_); }
  __device__ __forceinline__ bool read_note(Note& note, const Ring<Config::kFirstStages>& k) const {
    wait(shared.first_full[k.slot()], k.phase());
    const typename Config::TileNote& sent = shared.note[k.slot()];
    const int first = sent.state[2 * group], second = sent.state[2 * group + 1];
    note.state = first == second ? first : int(Config::kPartial);
    note.masked = sent.masked;
    note.last = sent.last;
    return note.state != Config::kEmpty;
  }

  /// Waits for the next tile that has scores for this group, and lets those pass that have none; false where the sweep
  /// ends with them. values: the sweep has V tiles, too. On true the K stage is still held. No other stage may be held:
  /// the producers may need it.
  __device__ __forceinline__ bool next_live(Note& note, bool values) {
    while (!read_note(note)) {
      release(shared.first_empty[first_.slot()]);
      first_.advance();
      if (note.masked) release_mask();
      if (values) {
        // Its load must have landed before the stage takes another one.
        wait(shared.second_full[second_.slot()], second_.phase());
        release_value();
        take_turn();
        pass_turn();
      }
      if (note.last) return false;
    }
    return true;
  }

  __device__ __forceinline__ void release_mask() {
    release(shared.mask_empty[mask_.slot()]);
    mask_.advance();
  }
  __device__ __forceinline__ void release_value() {
    release(shared.second_empty[second_.slot()]);
    second_.advance();
  }

  /// Consumer groups issue their products in a ring, tile by tile, so that one group forms weights while another
  /// multiplies.
  __device__ __forceinline__ void take_turn() const {
    if constexpr (Config::kTuning.schedule.pingpong) cutlass::arch::NamedBarrier::sync(256, kTurn + group);
  }
  __device__ __forceinline__ void pass_turn() const {
    if constexpr (Config::kTuning.schedule.pingpong)
      cutlass::arch::NamedBarrier::arrive(256, kTurn + (group + 1 == Config::kConsumers ? 0 : group + 1));
  }

  /// c += a b, or = a b; in flight until the batch that it is committed with has been waited for.
  template <class Mma, class A, class B, class C>
  __device__ __forceinline__ static void multiply(Mma& mma, const A& a, const B& b, C& c, bool zero) {
    warpgroup_fence_operand(c);
    warpgroup_arrive();
    mma.accumulate_ = zero ? GMMA::ScaleOut::Zero : GMMA::ScaleOut::One;
    CUTE_UNROLL
    for (int n = 0; n < size<2>(a); ++n) {
      cute::gemm(mma, a(_, _, n), b(_, _, n), c);
      mma.accumulate_ = GMMA::ScaleOut::One;
    }
  }

  /// Of the tile whose mask words are the current ones, what is not kept becomes `value`.
  template <class Scores>
  __device__ __forceinline__ void mask(Scores& scores, float value) const {
    constexpr int kColumns = decltype(size(scores))::value / kFragmentRows;
    const int shift = 2 * (thread & 3);
    CUTE_UNROLL
    for (int r = 0; r < kFragmentRows; ++r) {
      CUTE_UNROLL
      for (int w = 0; w < Config::kMaskWords; ++w) {
        const uint64_t& word = shared.mask_bits[mask_.slot()][w][64 * group + accumulator_row(thread, r)];
        CUTE_UNROLL
        for (int half = 0; half < 2 && w * 16 + half * 8 < kColumns; ++half) {
          // Bit 8 n + e is now that of this lane's column 8 n + 2 (lane % 4) + e.
          const uint32_t bits = reinterpret_cast<const uint32_t*>(&word)[half] >> shift;
          CUTE_UNROLL
          for (int c = 0; c < 8 && w * 16 + half * 8 + c < kColumns; ++c)
            if (!(bits >> ((c >> 1) * 8 + (c & 1)) & 1)) scores(accumulator_register(r, w * 16 + half * 8 + c)) = value;
        }
      }
    }
  }

  template <class Floats, class Elements>
  __device__ __forceinline__ static void to_elements(const Floats& floats, Elements& elements) {
    constexpr int kCount = decltype(size(floats))::value;
    cutlass::NumericArrayConverter<Element, float, kCount> convert;
    *reinterpret_cast<cutlass::Array<Element, kCount>*>(elements.data()) =
        convert(*reinterpret_cast<const cutlass::Array<float, kCount>*>(floats.data()));
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
