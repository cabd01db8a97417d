// Hopper backward consumers of head dimensions whose dK and dV are too many registers for one group: of the same 64
// keys one group finds P and dV, the other one dS and dK.
//
// Group 0: S = K Q^T, P, dV += P dO. Group 1: dP = V dO^T, dS = P (dP - delta), dK += dS Q. P reaches group 1 in
// float32 through shared memory, so no product is found twice. While a group forms its weights the products of the
// other one run. Registers of a consumer thread (D 256): dV or dK 128, S or dP 32, P or dS 16.
#pragma once

#include "splash/collective/sm90/backward/gradients.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// Output: 0 for dK, 1 for dV.
template <class Config, int Output>
struct ConsumerByOutputSm90 : GradientsSm90<Config> {
  using Base = GradientsSm90<Config>;
  using Base::params, Base::release, Base::shared, Base::thread;
  using Element = typename Config::Element;

  static constexpr bool kValues = Output == 1;

  /// Both have the same rows, and no group of rows but the first one.
  __device__ __forceinline__ ConsumerByOutputSm90(const typename Base::Params& params,
                                                  typename Config::SharedStorage& shared, int thread)
      : Base(params, shared, 0, thread) {}

  /// On return out holds the 64 rows of P dO or of dS Q.
  template <class Accumulator>
  __device__ __forceinline__ void consume(Accumulator& out) {
    Tensor sRows = make_tensor(make_smem_ptr(shared.rows.begin()), typename Config::LayoutRowTiles{});  // (64, D, tile)
    static_assert(Config::kFirstStages == Config::kSecondStages);
    using LayoutIn = typename Config::template LayoutColumns<Config::kFirstStages>;
    using LayoutOut = typename Config::template LayoutTransposed<Config::kFirstStages>;
    Element *const q = shared.first.begin(), *const grad_out = shared.second.begin();
    Tensor sIn = make_tensor(make_smem_ptr(kValues ? q : grad_out), LayoutIn{});    // (columns, D, stage)
    Tensor sOut = make_tensor(make_smem_ptr(kValues ? grad_out : q), LayoutOut{});  // (D, columns, stage)
    typename Config::MmaScores mma_scores;
    typename Config::MmaOutput mma_output;
    auto thread_scores = mma_scores.get_thread_slice(thread);
    auto thread_output = mma_output.get_thread_slice(thread);
    Tensor tIn = thread_scores.partition_fragment_B(sIn);    // descriptors (1, 1, D / 16, stage)
    Tensor tOut = thread_output.partition_fragment_B(sOut);  // descriptors (1, 1, columns / 16, stage)

    auto scores = partition_fragment_C(mma_scores, Shape<_64, Int<Config::kColumns>>{});  // S or dP
    auto weights = make_tensor<Element>(Shape<Shape<_2, _2, _2>, _1, Int<Config::kColumns / 16>>{});
    const auto start_scores = [&](int stage) {
      int tile = Config::row_tile(kValues ? 0 : 1, 0, 0);
      forget(tile);  // descriptors made anew each time: kept, they would be a register a step
      multiply(mma_scores, thread_scores.partition_fragment_A(sRows(_, _, tile)), tIn(_, _, _, stage), scores, true);
      warpgroup_commit_batch();
    };
    const auto wait_for_columns = [&](const Ring<Config::kFirstStages>& at) {
      if constexpr (kValues)
        wait(shared.first_full[at.slot()], at.phase());
      else
        wait(shared.second_full[at.slot()], at.phase());
    };

    clear(out);
    wait_for_columns(first_);
    start_scores(first_.slot());
    for (Note note;;) {
      read_note(note);
      warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
      const bool masked = note.masked && note.state != Config::kFull;
      if constexpr (kValues)
        form_weights(masked, scores);
      else
        form_scores(masked, scores);
      if (note.masked) release_mask();
      to_elements(scores, weights);

      if constexpr (kValues) wait(shared.second_full[first_.slot()], first_.phase());
      multiply(mma_output, weights, tOut(_, _, _, first_.slot()), out, false);
      warpgroup_commit_batch();
      // After the last tile a product that nobody reads: one that only some paths ask for would serialize all.
      auto next = first_;
      if (!note.last) {
        next.advance();
        wait_for_columns(next);
      }
      start_scores(next.slot());
      if (note.last) break;
      warpgroup_wait<1>();
      warpgroup_fence_operand(out);
      release_columns();
    }
    warpgroup_wait<0>();
    warpgroup_fence_operand(out);
    release_columns();
  }

 private:
  using Base::each_score, Base::first_, Base::mask, Base::multiply, Base::read_note, Base::release_mask,
      Base::to_elements;
  using typename Base::Note;

  Ring<1> weights_{};  ///< P in shared memory

  __device__ __forceinline__ void release_columns() {
    release(shared.first_empty[first_.slot()]);
    release(shared.second_empty[first_.slot()]);
    first_.advance();
  }

  /// S becomes P.
  template <class Scores>
  __device__ __forceinline__ void form_weights(bool masked, Scores& scores) {
    if (params.sign != 1.0f)
      for (int e = 0; e < size(scores); ++e) scores(e) *= params.sign;
    if (masked) mask(scores, -math::kInfinity<float>);
    each_score({}, shared.shift,
               [&](int at, float shift) { scores(at) = params.normalizer.weight_of(scores(at), shift); });
    wait(shared.p_empty, weights_.phase() ^ 1);
    CUTE_UNROLL
    for (int n = 0; n < Config::kColumns / 8; ++n)
      shared.p[n][thread] = make_float4(scores(4 * n), scores(4 * n + 1), scores(4 * n + 2), scores(4 * n + 3));
    release(shared.p_full);
    weights_.advance();
  }

  /// dP becomes dS.
  template <class Scores>
  __device__ __forceinline__ void form_scores(bool masked, Scores& scores) {
    float4 p{};
    each_score({}, shared.delta, [&](int at, float delta) {
      // Again and again, so that few of P are in registers at a time.
      if (at % (Config::kColumns / 4) == 0) wait(shared.p_full, weights_.phase());
      if (at % 4 == 0) p = shared.p[at / 4][thread];
      const float weight = at % 4 == 0 ? p.x : (at % 4 == 1 ? p.y : (at % 4 == 2 ? p.z : p.w));
      scores(at) = params.normalizer.dscore_of(weight, scores(at), delta);
    });
    if (masked) mask(scores, 0.0f);  // where nothing is kept dP may be NaN, and so may a column's own delta
    release(shared.p_empty);
    weights_.advance();
  }
};

}  // namespace collective
SPLASH_NAMESPACE_END
