// What patterns say for the choice of a kernel and of its launch, against keep() of every score.
#include <initializer_list>
#include <vector>

#include "pattern_cases.hpp"
#include "pattern_checks.hpp"
#include "splash/patterns/big_bird.hpp"
#include "splash/patterns/block_diagonal.hpp"
#include "splash/patterns/causal.hpp"
#include "splash/patterns/compose.hpp"
#include "splash/patterns/dilated.hpp"
#include "splash/patterns/fixed.hpp"
#include "splash/patterns/full.hpp"
#include "splash/patterns/longformer.hpp"
#include "splash/patterns/streaming.hpp"
#include "splash/patterns/strided.hpp"
#include "splash/tuning/spans.hpp"
#include "tensor_cases.hpp"

namespace {

using namespace brute_force;
using AnyPattern = AnyOf<Causal, Streaming, Dilated, BlockMask>;

PatternTerm term_of(std::initializer_list<int64_t> ints, int kind = 0) {
  PatternTerm term;
  term.kind = kind;
  for (const int64_t n : ints) term.ints[term.num_ints++] = n;
  return term;
}

/// check_pattern() asks whether a `yes` is true; here is where the answer must be one.
template <class P>
void check_self(const char* name, const P& pattern, const Frame& frame, bool wanted) {
  check::that(keeps_self(pattern, frame) == wanted, "%s: keeps_self is not %d", name, wanted);
}

void check_selves(const cases::FrameCase& one) {
  const Frame& frame = one.frame;
  check_self("Full", Full{}, frame, true);
  check_self("Causal", Causal{}, frame, true);
  check_self("SlidingWindow", SlidingWindow{0, 0}, frame, true);
  check_self("SlidingWindow", SlidingWindow{9, -1}, frame, false);
  check_self("Streaming", Streaming::from(term_of({4, 1})), frame, true);
  check_self("Streaming", Streaming::from(term_of({4, 0})), frame, false);
  check_self("BlockDiagonal", BlockDiagonal::from(term_of({48, 1})), frame, true);
  check_self("Dilated", Dilated::from(term_of({1, 7, 1})), frame, true);
  check_self("Dilated", Dilated::from(term_of({0, 7, 0})), frame, true);
  check_self("Dilated", Dilated::from(term_of({0, 7, 1})), frame, false);
  check_self("Strided", Strided::from(term_of({0, 90})), frame, true);
  check_self("Fixed", Fixed::from(term_of({70, 0})), frame, true);
  check_self("Longformer", Longformer::from(term_of({0, 3, 2, 1})), frame, true);
  const cases::Mask mask(one.rows, one.columns, 48, 16, 1.0, 1);
  check_self("BlockMask", mask.pattern(), frame, false);
  using Inner = And<Streaming, Causal>;
  check_self("And", Inner{{4, 1}, {}}, frame, true);
  check_self("And", And<Inner, BlockMask>{{{4, 1}, {}}, mask.pattern()}, frame, false);

  PatternSpec spec;
  check_self("no terms", Conjunction<AnyPattern>::from(spec), frame, true);
  spec.terms[spec.count++] = term_of({}, 0);
  spec.terms[spec.count++] = term_of({4, 1}, 1);
  spec.terms[spec.count++] = term_of({3, 7, 1}, 2);
  check_self("Conjunction", Conjunction<AnyPattern>::from(spec), frame, true);
  spec.terms[spec.count] = mask.term();
  spec.terms[spec.count++].kind = 3;
  check_self("Conjunction", Conjunction<AnyPattern>::from(spec), frame, false);

  const cases::Birds birds({5, 3, 1, 1, 2, 0, false, false}, 48, {frame.q_start, one.rows},
                           {frame.k_start, one.columns});
  const BigBird bird = BigBird::from(birds.term);
  bool inside = true;
  for (int row = 0; row < frame.num_queries; ++row)
    if (const int64_t column = int64_t(frame.i(row)) - frame.k_start; column >= 0 && column < frame.num_keys)
      inside = inside && frame.i(row) >= 0 && frame.i(row) < 5 * 48;
  check_self("BigBird", bird, frame, inside);
  check_pattern("BigBird of five blocks", bird, frame, Exact::yes);
}

/// residues() against keep(): a term that is said to be a dilated band is just that.
template <class P>
void check_residues(const char* name, const PatternTerm& term, const Frame& frame, bool wanted) {
  int64_t dilation = 0, sides[2] = {};
  const bool found = P::residues(term, dilation, sides);
  check::that(found == wanted, "%s: residues is not %d", name, wanted);
  if (!found) return;
  const P pattern = P::from(term);
  for (int row = 0; row < frame.num_queries; ++row)
    for (int column = 0; column < frame.num_keys; ++column) {
      const int64_t distance = int64_t(frame.i(row)) - frame.j(column), steps = distance / dilation;
      const bool kept =
          distance % dilation == 0 && (sides[0] < 0 || steps <= sides[0]) && (sides[1] < 0 || -sides[1] <= steps);
      check::that(pattern.keep(frame, row, column) == kept, "%s: its residues differ at row %d, column %d", name, row,
                  column);
    }
}

void check_all_residues(const Frame& frame) {
  for (const int64_t window : {1, 2, 7, 64, kUnlimited})
    for (const int64_t dilation : {1, 2, 3, 8, 70, 1 << 16})
      for (const bool causal : {false, true}) {
        check_residues<Dilated>("Dilated", term_of({window, dilation, causal}), frame, true);
        check_residues<Longformer>("Longformer", term_of({window, 0, dilation, causal}), frame, true);
        check_residues<Longformer>("Longformer", term_of({window, 1, dilation, causal}), frame, false);
      }
  check_residues<Dilated>("Dilated", term_of({0, 3, 0}), frame, true);
  check_residues<Dilated>("Dilated", term_of({0, 3, 1}), frame, false);
  check_residues<Dilated>("Dilated", term_of({5, (1 << 16) + 1, 1}), frame, false);
  for (const int64_t local : {0, 1}) check_residues<Strided>("Strided", term_of({local, 9}), frame, true);
  check_residues<Strided>("Strided", term_of({2, 9}), frame, false);
  PatternTerm by_head = term_of({5, 1});
  by_head.num_tensors = 1;
  check_residues<DilatedHeads>("Dilated by heads", by_head, frame, false);
  for (const int64_t local : {1, 2, 300}) check_residues<Strided>("Strided", term_of({local, 1}), frame, true);
}

/// global_rows() is what is wanted, and these rows keep every key, or every one that is not later.
template <class P>
void check_rows(const char* name, const PatternTerm& term, int rows, int columns, int q_start, int64_t first,
                int64_t last) {
  AttentionInputs in;
  in.q.shape[2] = rows;
  in.k.shape[2] = columns;
  in.positions.q_start = q_start;
  const GlobalRows found = P::global_rows(term, in);
  check::that(found.first == first && found.last == last, "%s: %d rows from position %d have %lld and %lld global rows",
              name, rows, q_start, (long long)found.first, (long long)found.last);
  const P pattern = P::from(term);
  const Frame frame = make_frame(in.positions, 0, 0, rows, columns);
  for (int row = 0; row < rows; ++row)
    if (row < first || row >= rows - last)
      for (int column = 0; column < columns; ++column)
        check::that(pattern.keep(frame, row, column) || (pattern.causal && frame.j(column) > frame.i(row)),
                    "%s: row %d of %d from position %d is not global", name, row, rows, q_start);
}

void check_global_rows() {
  const auto longformer = [](int64_t prefix, bool causal) { return term_of({5, prefix, 1, causal}); };
  check_rows<Longformer>("Longformer", longformer(30, false), 200, 200, 0, 30, 0);
  check_rows<Longformer>("Longformer", longformer(30, false), 100, 200, 20, 10, 0);
  check_rows<Longformer>("Longformer", longformer(30, false), 100, 200, 100, 0, 0);
  check_rows<Longformer>("Longformer", longformer(300, false), 100, 200, 100, 100, 0);
  check_rows<Longformer>("Longformer", longformer(30, true), 200, 200, 0, 0, 0);
  for (const bool causal : {false, true}) {
    const auto check_birds = [&](int rows, int columns, int q_start, int64_t first, int64_t last) {
      const cases::Birds birds({10, 3, 2, 1, 2, 0, false, causal}, 20, {q_start, rows}, {0, columns});
      check_rows<BigBird>("BigBird", birds.term, rows, columns, q_start, first, last);
    };
    const int first = causal ? 0 : 40;
    check_birds(200, 200, 0, first, 20);
    check_birds(190, 190, 0, first, 10);
    check_birds(50, 190, 140, 0, 10);
    check_birds(50, 190, 20, causal ? 0 : 20, 0);
    check_birds(5, 190, 185, 0, 5);
    const cases::Birds none({10, 3, 0, 0, 2, 0, false, causal}, 20, {0, 200}, {0, 200});
    check_rows<BigBird>("BigBird", none.term, 200, 200, 0, 0, 0);
  }
  static const int32_t ends[] = {0, 100, 300};
  AttentionInputs packed;
  packed.q.shape[2] = packed.k.shape[2] = 300;
  packed.positions.cu_queries = packed.positions.cu_keys = ends;
  packed.positions.max_queries = packed.positions.max_keys = 200;
  for (const int64_t length : {int64_t(200), int64_t(kUnlimited)}) {
    const GlobalRows found = BigBird::global_rows(term_of({20, 0, 2, 1, length}), packed);
    check::that(found.first == 40 && found.last == 20, "BigBird: global rows of packed sequences");
  }
}

/// global_columns() is what is wanted, and these columns are kept by every row, or by every one that is not earlier.
template <class P>
void check_columns(const char* name, const PatternTerm& term, bool causal, int columns, int k_start, int64_t first,
                   int64_t last) {
  constexpr int kRows = 200;
  AttentionInputs in;
  in.q.shape[2] = kRows;
  in.k.shape[2] = columns;
  in.positions.k_start = k_start;
  const GlobalRows found = P::global_columns(term, in);
  check::that(found.first == first && found.last == last,
              "%s: %d columns from position %d have %lld and %lld global columns", name, columns, k_start,
              (long long)found.first, (long long)found.last);
  const P pattern = P::from(term);
  const Frame frame = make_frame(in.positions, 0, 0, kRows, columns);
  for (int column = 0; column < columns; ++column)
    if (column < first || column >= columns - last)
      for (int row = 0; row < kRows; ++row)
        check::that(pattern.keep(frame, row, column) || (causal && frame.j(column) > frame.i(row)),
                    "%s: column %d of %d from position %d is not global", name, column, columns, k_start);
}

/// Of the longest of packed sequences.
template <class P>
void check_packed_columns(const char* name, const PatternTerm& term, int64_t first, int64_t last) {
  static const int32_t ends[] = {0, 100, 300};
  AttentionInputs packed;
  packed.q.shape[2] = packed.k.shape[2] = 300;
  packed.positions.cu_queries = packed.positions.cu_keys = ends;
  packed.positions.max_queries = packed.positions.max_keys = 200;
  const GlobalRows found = P::global_columns(term, packed);
  check::that(found.first == first && found.last == last, "%s: global columns of packed sequences", name);
}

void check_global_columns() {
  const PatternTerm streaming = term_of({30, 7});
  check_columns<Streaming>("Streaming", streaming, true, 200, 0, 30, 0);
  check_columns<Streaming>("Streaming", streaming, true, 200, 10, 20, 0);
  check_columns<Streaming>("Streaming", streaming, true, 200, -5, 35, 0);
  check_columns<Streaming>("Streaming", streaming, true, 200, 30, 0, 0);
  check_columns<Streaming>("Streaming", streaming, true, 20, 0, 20, 0);
  check_columns<Streaming>("Streaming", term_of({0, 7}), true, 200, 0, 0, 0);
  check_packed_columns<Streaming>("Streaming", term_of({250, 7}), 200, 0);
  for (const bool causal : {false, true}) {
    const PatternTerm longformer = term_of({5, 30, 1, causal});
    check_columns<Longformer>("Longformer", longformer, causal, 200, 0, 30, 0);
    check_columns<Longformer>("Longformer", longformer, causal, 200, 20, 10, 0);
    check_columns<Longformer>("Longformer", longformer, causal, 200, 100, 0, 0);
    check_columns<Longformer>("Longformer", longformer, causal, 17, 0, 17, 0);
    check_columns<Longformer>("Longformer", term_of({5, 0, 1, causal}), causal, 200, 0, 0, 0);
    check_packed_columns<Longformer>("Longformer", longformer, 30, 0);

    const auto check_birds = [&](int columns, int k_start, int64_t first, int64_t last) {
      const cases::Birds birds({10, 3, 2, 1, 2, 0, false, causal}, 20, {0, 200}, {k_start, columns});
      check_columns<BigBird>("BigBird", birds.term, causal, columns, k_start, first, causal ? 0 : last);
    };
    check_birds(200, 0, 40, 20);
    check_birds(190, 0, 40, 10);
    check_birds(50, 140, 0, 10);
    check_birds(50, 20, 20, 0);
    check_birds(5, 185, 0, 5);
    for (const int64_t length : {int64_t(200), int64_t(kUnlimited)})
      check_packed_columns<BigBird>("BigBird", term_of({20, causal, 2, 1, length}), 40, causal ? 0 : 20);
    const cases::Birds none({10, 3, 0, 0, 2, 0, false, causal}, 20, {0, 200}, {0, 200});
    check_columns<BigBird>("BigBird", none.term, causal, 200, 0, 0, 0);
  }
}

/// tile_columns() of narrow, wide and unlimited terms.
void check_blocks() {
  const auto wants = [](const char* name, int columns, int wanted) {
    check::that(columns == wanted, "%s: tile_columns is %d, not %d", name, columns, wanted);
  };
  wants("SlidingWindow", SlidingWindow::tile_columns(term_of({255, 0}), tuning::kTileWidths), 64);
  wants("SlidingWindow", SlidingWindow::tile_columns(term_of({512, 512}), tuning::kTileWidths), 0);
  wants("SlidingWindow", SlidingWindow::tile_columns(term_of({-1, 0}), tuning::kTileWidths), 0);
  wants("Streaming", Streaming::tile_columns(term_of({4, 256}), tuning::kTileWidths), 64);
  wants("Streaming", Streaming::tile_columns(term_of({4, 1024}), tuning::kTileWidths), 0);
  wants("BlockDiagonal", BlockDiagonal::tile_columns(term_of({512, 1}), tuning::kTileWidths), 64);
  wants("BlockDiagonal", BlockDiagonal::tile_columns(term_of({1024, 0}), tuning::kTileWidths), 0);
  wants("Dilated", Dilated::tile_columns(term_of({256, 4, 1}), tuning::kTileWidths), 64);
  wants("Dilated", Dilated::tile_columns(term_of({512, 4, 0}), tuning::kTileWidths), 0);
  wants("Strided", Strided::tile_columns(term_of({128, 256}), tuning::kTileWidths), 64);
  wants("Strided", Strided::tile_columns(term_of({128, 64}), tuning::kTileWidths), 0);
  wants("Fixed", Fixed::tile_columns(term_of({128, 8}), tuning::kTileWidths), 64);
  wants("Fixed", Fixed::tile_columns(term_of({64, 8}), tuning::kTileWidths), 0);
  wants("Longformer", Longformer::tile_columns(term_of({256, 16, 1, 0}), tuning::kTileWidths), 64);
  wants("Longformer", Longformer::tile_columns(term_of({256, 16, 2, 0}), tuning::kTileWidths), 0);
  wants("Longformer", Longformer::tile_columns(term_of({256, 16, 2, 1}), tuning::kTileWidths), 64);
  wants("LongformerTokens", LongformerTokens::tile_columns(term_of({1024, 1, 0}), tuning::kTileWidths), 64);
  wants("BigBird", BigBird::tile_columns(term_of({64, 0, 1, 1}), tuning::kTileWidths), 64);
  wants("BigBird", BigBird::tile_columns(term_of({192, 0, 1, 1}), tuning::kTileWidths), 64);
  wants("BigBird", BigBird::tile_columns(term_of({256, 0, 1, 1}), tuning::kTileWidths), 128);
  wants("BlockMask", BlockMask::tile_columns(term_of({64, 128}), tuning::kTileWidths), 128);
  wants("BlockMask", BlockMask::tile_columns(term_of({64, 384}), tuning::kTileWidths), 128);
  wants("BlockMask", BlockMask::tile_columns(term_of({128, 192}), tuning::kTileWidths), 64);
  wants("BlockMask", BlockMask::tile_columns(term_of({64, 48}), tuning::kTileWidths), 48);
}

}  // namespace

int main() {
  for (const cases::FrameCase& one : cases::frames()) {
    check_selves(one);
    check_all_residues(one.frame);
  }
  check_global_rows();
  check_global_columns();
  check_blocks();
  return summary("test_hints");
}
