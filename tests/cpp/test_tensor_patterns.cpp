// Brute force of the patterns that hold tensors, and of conjunctions of all patterns.
#include <numeric>

#include "pattern_cases.hpp"
#include "pattern_checks.hpp"
#include "splash/patterns/big_bird.hpp"
#include "splash/patterns/block_diagonal.hpp"
#include "splash/patterns/causal.hpp"
#include "splash/patterns/compose.hpp"
#include "splash/patterns/dilated.hpp"
#include "splash/patterns/element_mask.hpp"
#include "splash/patterns/fixed.hpp"
#include "splash/patterns/full.hpp"
#include "splash/patterns/index_causal.hpp"
#include "splash/patterns/longformer.hpp"
#include "splash/patterns/staircase.hpp"
#include "splash/patterns/streaming.hpp"
#include "splash/patterns/strided.hpp"
#include "tensor_cases.hpp"

namespace {

using namespace brute_force;

/// keep() against a function of rows and columns.
template <class P, class Kept>
void check_kept(const char* name, const P& pattern, const Frame& frame, const Kept& kept) {
  for (int row = 0; row < frame.num_queries; ++row)
    for (int column = 0; column < frame.num_keys; ++column)
      check::that(pattern.keep(frame, row, column) == kept(row, column), "%s: keep is wrong at row %d, column %d", name,
                  row, column);
}

/// Tiles that are the pattern's own ones are known exactly, where the frame has no padding.
template <class P>
void check_own_tiles(const char* name, const P& pattern, const cases::FrameCase& one) {
  if (one.frame.num_queries < one.rows || one.frame.num_keys < one.columns) return;
  const Transposed<P> transposed{pattern};
  check_tiles(name, pattern, one.frame, one.rows, one.columns, 64, 64, Exact::yes);
  check_tiles(name, transposed, one.frame, one.columns, one.rows, 64, 64, Exact::yes);
}

void check_big_bird(const cases::FrameCase& one, const patterns::BigBirdDraw& draw, int block, Exact exact) {
  const cases::Grid blocks = cases::big_bird_blocks(draw);
  const int end = draw.blocks * block;
  for (const bool packed : {false, true}) {
    Frame frame = one.frame;
    if (packed) frame.first_row = 37, frame.first_column = 230;
    const cases::Birds birds(draw, block, {frame.q_start, one.rows, frame.first_row},
                             {frame.k_start, one.columns, frame.first_column}, packed);
    const BigBird pattern = BigBird::from(birds.term);
    check_kept("BigBird", pattern, frame, [&](int row, int column) {
      const int i = frame.i(row), j = frame.j(column);
      if (i < 0 || j < 0 || i >= end || j >= end || (draw.causal && j > i)) return false;
      return blocks.keep(frame.batch, frame.head, i / block, j / block);
    });
    check_pattern("BigBird", pattern, frame, exact);
  }
}

/// Its own length, a longer sequence of which this is a slice, and a shorter one.
void check_big_birds(const cases::FrameCase& one) {
  const int end = clamp_to(one.frame.k_start + one.columns, 1, 3000);
  for (const bool causal : {false, true}) {
    for (const int block : {1, 3, 8, 9, 11, 16, 48, 64, 100}) {
      const int blocks = std::min(cases::ceil_div(end, block), 150);
      check_big_bird(one, {blocks, 3, 1, 1, 3, 0, false, causal}, block, Exact::yes);
    }
    check_big_bird(one, {cases::ceil_div(end, 64) + 11, 1, 0, 2, 4, 1234567890123456789, true, causal}, 64, Exact::yes);
    check_big_bird(one, {cases::ceil_div(end, 32), 5, 2, 0, 100, 7, true, causal}, 16, Exact::yes);
  }
}

/// fill() of one row after the other against the sets of the definition.
void check_draws() {
  for (const int blocks : {0, 1, 2, 5, 31, 32, 33, 100})
    for (const int window : {1, 3, 7, 301})
      for (const auto& [first, last] : {std::pair{0, 0}, {1, 1}, {3, 0}, {0, 2}, {200, 1}, {30, 40}})
        for (const int random : {0, 1, 3, 1000})
          for (const uint64_t seed : {uint64_t(0), uint64_t(42), ~uint64_t(0) / 3})
            for (const bool causal : {false, true}) {
              const BigBirdDraw draw{blocks, window, first, last, random, seed, seed != 0, causal};
              const cases::Grid grid = cases::big_bird_blocks(draw);
              std::vector<uint32_t> words((blocks + 31) / 32, 0xdeadbeef);
              for (int head = 0; head < cases::kHeads; ++head)
                for (int row = 0; row < blocks; ++row) {
                  draw.fill(head, row, words.data());
                  for (int column = 0; column < blocks; ++column) {
                    check::that((words[column / 32] >> (column % 32) & 1) == grid.keep(1, head, row, column),
                                "BigBirdDraw: %d blocks, row %d, column %d", blocks, row, column);
                    check::that(draw.structural(row, column) == cases::big_bird_structural(draw, row, column),
                                "BigBirdDraw: structural of %d blocks, row %d, column %d", blocks, row, column);
                  }
                }
            }
}

template <class Index>
void check_indices(const cases::FrameCase& one, const Index& index) {
  cases::Indices indices(one.rows, one.columns);
  indices.fill(index);
  const IndexCausal pattern = IndexCausal::from(indices.term());
  const Frame& frame = one.frame;
  const int outer = frame.batch * cases::kHeads + frame.head;
  check_kept("IndexCausal", pattern, frame, [&](int row, int column) {
    return indices.k_idx.data[outer * one.columns + column] <= indices.q_idx.data[outer * one.rows + row];
  });
  check_pattern("IndexCausal", pattern, frame, Exact::no);
  check_own_tiles("IndexCausal", pattern, one);
}

/// Sorted, reversed, constant, with ties, at random, a permutation, and in segments far from each other.
void check_index_causal(const cases::FrameCase& one, unsigned seed) {
  std::mt19937 random(seed);
  check_indices(one, [](int n, int) { return n; });
  check_indices(one, [](int n, int extent) { return extent - n; });
  check_indices(one, [](int, int) { return 3; });
  check_indices(one, [](int n, int) { return n / 40; });
  check_indices(one, [&](int, int extent) { return int(random() % (extent + 1)) - extent / 2; });
  check_indices(one, [&](int n, int extent) { return n % 128 < 64 ? n : extent + 200 - n; });
  check_indices(one, [&](int n, int) { return n % 2 ? INT32_MAX : INT32_MIN; });
  std::vector<int> permutation(std::max(one.rows, one.columns));
  std::iota(permutation.begin(), permutation.end(), 0);
  std::shuffle(permutation.begin(), permutation.end(), random);
  check_indices(one, [&](int n, int) { return permutation[n]; });
}

template <class Kept>
void check_elements(const cases::FrameCase& one, const Kept& kept) {
  cases::Grid mask(one.rows, one.columns);
  for (int outer = 0; outer < cases::kBatch * cases::kHeads; ++outer)
    for (int row = 0; row < one.rows; ++row)
      for (int column = 0; column < one.columns; ++column)
        mask.bits[mask.at(outer, row, column)] = kept(outer, row, column);
  cases::Elements elements(mask);
  const ElementMask pattern = ElementMask::from(elements.term());
  const Frame& frame = one.frame;
  check_kept("ElementMask", pattern, frame,
             [&](int row, int column) { return mask.keep(frame.batch, frame.head, row, column); });
  check_pattern("ElementMask", pattern, frame, Exact::no);
  check_own_tiles("ElementMask", pattern, one);
}

void check_element_mask(const cases::FrameCase& one, unsigned seed) {
  std::mt19937 random(seed);
  for (const double density : {0.0, 0.0005, 0.3, 1.0}) {
    std::bernoulli_distribution keep(density);
    check_elements(one, [&](int, int, int) { return keep(random); });
  }
  check_elements(one, [](int outer, int row, int column) { return (row / 64 + column / 64 + outer) % 2 == 0; });
  check_elements(one, [](int outer, int row, int column) { return row / (20 + outer) == column / (20 + outer); });
  check_elements(one, [](int, int row, int column) { return column <= row; });
}

/// Numbers out of range in tensors: nothing is read outside of them, and every answer stays consistent.
void check_untrusted(const cases::FrameCase& one, unsigned seed) {
  std::mt19937 random(seed);
  cases::Grid mask(one.rows, one.columns);
  for (std::size_t n = 0; n < mask.bits.size(); ++n) mask.bits[n] = random() % 2;
  cases::Elements elements(mask);
  for (int32_t& entry : elements.index.data) entry = int32_t(random()) >> random() % 32;
  const ElementMask pattern = ElementMask::from(elements.term());
  check_bits("ElementMask of nonsense", pattern, one.frame);
}

/// A term that fits is accepted; with one tensor or number spoilt, or with packed sequences, it is refused.
template <class P>
void check_misfits(const char* name, const PatternTerm& term, AttentionInputs in, bool packs) {
  check::that(P::misfit(term, in) == nullptr, "%s: refused: %s", name, P::misfit(term, in));
  for (int n = 0; n < term.num_tensors; ++n) {
    const auto refused = [&](const char* what, auto spoil) {
      PatternTerm spoilt = term;
      spoil(spoilt.tensors[n]);
      check::that(P::misfit(spoilt, in) != nullptr, "%s: tensor %d with %s is accepted", name, n, what);
    };
    refused("another dtype", [](TensorView& t) { t.dtype = DType::int64; });
    refused("one dimension less", [](TensorView& t) { --t.rank; });
    refused("gaps", [](TensorView& t) {
      int d = t.rank - 1;
      while (t.shape[d] == 1) --d;
      ++t.stride[d];
    });
    refused("another last extent", [](TensorView& t) { ++t.shape[t.rank - 1]; });
    if (term.tensors[n].rank == 4) {
      refused("three batch entries", [](TensorView& t) { t.shape[0] = 3; });
      refused("two heads", [](TensorView& t) { t.shape[1] = 2; });
      refused("another number of lines", [](TensorView& t) { t.shape[2] += 40; });
    }
  }
  static const int32_t ends[] = {0, 1, 2};
  in.positions.cu_queries = in.positions.cu_keys = ends;
  in.positions.sequences = cases::kBatch;
  check::that((P::misfit(term, in) == nullptr) == packs, "%s: packed sequences", name);
}

template <class P>
void check_ints(const char* name, std::initializer_list<int64_t> fine, std::initializer_list<int> from_one) {
  PatternTerm term;
  for (const int64_t n : fine) term.ints[term.num_ints++] = n;
  const AttentionInputs in;
  check::that(P::misfit(term, in) == nullptr, "%s: refused", name);
  for (const int n : from_one)
    for (const int64_t wrong : {int64_t(0), int64_t(-1), int64_t(kUnlimited) + 1}) {
      PatternTerm spoilt = term;
      spoilt.ints[n] = wrong;
      check::that(P::misfit(spoilt, in) != nullptr, "%s: number %d may be %lld", name, n, (long long)wrong);
    }
}

/// Dilations by head: as many as there are query heads, none below 1.
void check_list() {
  AttentionInputs in;
  in.q.shape[1] = 3;
  for (const int64_t wrong : {int64_t(1), int64_t(0), int64_t(-1), int64_t(kUnlimited) + 1}) {
    const int64_t dilations[] = {1, 7, wrong, 4};
    cases::IntTensor tensor{3};
    PatternTerm term;
    term.num_ints = 2;
    term.num_tensors = 1;
    term.tensors[0] = tensor.view();
    term.list = dilations;
    for (int64_t size = 0; size <= 4; ++size) {
      term.list_size = size;
      check::that((DilatedHeads::misfit(term, in) == nullptr) == (size == 3 && wrong == 1),
                  "DilatedHeads: %lld in a list of %lld", (long long)wrong, (long long)size);
    }
  }
}

/// Packed: a line a whole block and two a sequence, and bits for the longest.
void check_packed_misfits(PatternTerm term, AttentionInputs in) {
  static const int32_t ends[] = {0, 1, 2};
  in.positions.cu_queries = in.positions.cu_keys = ends;
  in.positions.sequences = 2;
  in.positions.max_queries = 100000;
  in.positions.max_keys = 90;
  cases::IntTensor by_row{1, 12, 1}, by_column{cases::kHeads, 16, 1};
  term.tensors[0] = by_row.view();
  term.tensors[1] = by_column.view();
  check::that(BigBird::misfit(term, in) == nullptr, "BigBird: packed tensors are refused");
  for (int n = 0; n < 2; ++n)
    for (int d = 0; d < 3; ++d) {
      PatternTerm spoilt = term;
      spoilt.tensors[n].shape[d] += 2;
      check::that(BigBird::misfit(spoilt, in) != nullptr, "BigBird: packed tensor %d of another extent %d", n, d);
    }
  in.positions.max_keys = 16 * 32 + 1;
  in.k.shape[2] = 16 * 32;
  cases::IntTensor more{cases::kHeads, 36, 1};
  term.tensors[1] = more.view();
  check::that(BigBird::misfit(term, in) == nullptr, "BigBird: the longest is not longer than all");
}

/// Against caches that end anywhere, rows may lie across a block more; slices have their own blocks only.
void check_lines_of_caches(PatternTerm term, AttentionInputs in) {
  static const int32_t held[] = {1, 2};
  in.positions.q_start = 262144 + 15;
  cases::IntTensor by_row{1, 1, 10, 1}, by_column{1, 1, 13, 1};
  term.tensors[0] = by_row.view();
  term.tensors[1] = by_column.view();
  check::that(BigBird::misfit(term, in) == nullptr, "BigBird: the lines of a slice are refused");
  in.q.shape[2] = 129;
  in.positions.kv_lengths = held;
  check::that(BigBird::misfit(term, in) != nullptr, "BigBird: 9 blocks are enough for 129 queries");
  in.q.shape[2] = 131;
  check::that(BigBird::misfit(term, in) == nullptr, "BigBird: the lines of a cache are refused");
}

void check_all_misfits() {
  AttentionInputs in;
  in.q.shape[0] = in.k.shape[0] = cases::kBatch;
  in.q.shape[1] = cases::kHeads;
  in.q.shape[2] = 130;
  in.k.shape[2] = 200;
  cases::Mask mask(130, 200, 48, 16, 0.5, 1);
  check_misfits<BlockMask>("BlockMask", mask.term(), in, false);
  cases::Elements elements{cases::Grid(130, 200)};
  elements.words.shape[0] = 1;
  elements.words.data.assign(128, 1);
  check_misfits<ElementMask>("ElementMask", elements.term(), in, false);
  cases::Indices indices(130, 200);
  check_misfits<IndexCausal>("IndexCausal", indices.term(), in, false);
  cases::IntTensor by_row{cases::kBatch, 1, 9, 1}, by_column{1, cases::kHeads, 13, 1};
  PatternTerm big_bird;
  big_bird.ints[0] = 16;
  big_bird.ints[4] = 208;
  big_bird.num_tensors = 2;
  big_bird.tensors[0] = by_row.view();
  big_bird.tensors[1] = by_column.view();
  check_misfits<BigBird>("BigBird", big_bird, in, false);
  check_packed_misfits(big_bird, in);
  check_lines_of_caches(big_bird, in);
  cases::IntTensor dilations{cases::kHeads};
  const int64_t list[cases::kHeads] = {1, 2, 3, 4};
  PatternTerm dilated;
  dilated.num_tensors = 1;
  dilated.tensors[0] = dilations.view();
  dilated.list = list;
  dilated.list_size = cases::kHeads;
  check_misfits<DilatedHeads>("DilatedHeads", dilated, in, true);
  check_ints<Streaming>("Streaming", {0, 1}, {});
  check_ints<BlockDiagonal>("BlockDiagonal", {64, 0}, {0});
  check_ints<Dilated>("Dilated", {0, 1, 0}, {1});
  check_ints<Strided>("Strided", {0, 8}, {1});
  check_ints<Fixed>("Fixed", {8, 0}, {0});
  check_ints<Staircase>("Staircase", {8, 1, 0}, {0, 1});
  check_list();
  check_ints<Longformer>("Longformer", {0, 0, 3, 0}, {2});
}

using AnyPattern = AnyOf<Full, Causal, SlidingWindow, Streaming, BlockDiagonal, Dilated, Strided, Fixed, Longformer,
                         BigBird, IndexCausal, BlockMask, ElementMask>;

PatternTerm term_of(int kind, std::initializer_list<int64_t> ints) {
  PatternTerm term;
  term.kind = kind;
  for (const int64_t n : ints) term.ints[term.num_ints++] = n;
  return term;
}

PatternTerm with_kind(int kind, PatternTerm term) {
  term.kind = kind;
  return term;
}

/// Two to four terms at random: kept is what each of them keeps.
void check_conjunctions(const cases::FrameCase& one, unsigned seed) {
  const Frame& frame = one.frame;
  std::mt19937 random(seed);
  const cases::Mask mask(one.rows, one.columns, 32, 48, 0.6, seed);
  cases::Grid dense(one.rows, one.columns);
  for (std::size_t n = 0; n < dense.bits.size(); ++n) dense.bits[n] = random() % 3 > 0;
  cases::Elements elements(dense);
  cases::Indices indices(one.rows, one.columns);
  indices.fill([&](int n, int) { return n / 30 * 30 + int(random() % 60); });
  const int blocks = cases::ceil_div(clamp_to(frame.k_start + one.columns, 1, 3000), 32);
  const cases::Birds birds({blocks, 3, 1, 1, 2, seed, true, false}, 32, {frame.q_start, one.rows},
                           {frame.k_start, one.columns});
  const std::vector<PatternTerm> pool = {term_of(0, {}),
                                         term_of(1, {}),
                                         term_of(2, {70, 20}),
                                         term_of(3, {9, 40}),
                                         term_of(4, {50, 0}),
                                         term_of(5, {60, 2, 0}),
                                         term_of(6, {20, 7}),
                                         term_of(7, {64, 10}),
                                         term_of(8, {30, 20, 2, 0}),
                                         with_kind(9, birds.term),
                                         with_kind(10, indices.term()),
                                         with_kind(11, mask.term()),
                                         with_kind(12, elements.term())};
  for (int trial = 0; trial < 6; ++trial) {
    PatternSpec spec;
    spec.count = 2 + trial % 3;
    for (int t = 0; t < spec.count; ++t) spec.terms[t] = pool[random() % pool.size()];
    const auto all = Conjunction<AnyPattern>::from(spec);
    check_kept("conjunction", all, frame, [&](int row, int column) {
      bool kept = true;
      for (int t = 0; t < spec.count; ++t) kept = kept && AnyPattern::from(spec.terms[t]).keep(frame, row, column);
      return kept;
    });
    check_pattern("conjunction", all, frame, Exact::no);
  }
}

}  // namespace

int main() {
  check_draws();
  check_all_misfits();
  unsigned seed = 0;
  for (const cases::FrameCase& one : cases::frames()) {
    check_big_birds(one);
    check_index_causal(one, ++seed);
    check_element_mask(one, ++seed);
    check_untrusted(one, ++seed);
    check_conjunctions(one, ++seed);
  }
  check::that(brute_force::tile_bits_checked > 0, "no tile bits were checked");
  return summary("test_tensor_patterns");
}
