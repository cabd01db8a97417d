// Brute force of the windows, the masks and their conjunctions, over many frames.
#include "pattern_cases.hpp"
#include "pattern_checks.hpp"
#include "splash/patterns/causal.hpp"
#include "splash/patterns/compose.hpp"
#include "splash/patterns/full.hpp"
#include "splash/patterns/sliding_window.hpp"

namespace {

using namespace brute_force;
using AnyPattern = AnyOf<Full, Causal, SlidingWindow, BlockMask>;

PatternTerm window_term(int left, int right) {
  PatternTerm term;
  term.kind = 2;
  term.num_ints = 2;
  term.ints[0] = left;
  term.ints[1] = right;
  return term;
}

PatternTerm plain_term(int kind) {
  PatternTerm term;
  term.kind = kind;
  return term;
}

PatternTerm mask_term(const cases::Mask& mask) {
  PatternTerm term = mask.term();
  term.kind = 3;
  return term;
}

Conjunction<AnyPattern> conjunction(std::initializer_list<PatternTerm> terms) {
  PatternSpec spec;
  for (const PatternTerm& term : terms) spec.terms[spec.count++] = term;
  return Conjunction<AnyPattern>::from(spec);
}

/// A conjunction keeps what all its terms keep; the pattern it stands for says which.
template <class P>
void check_same_keep(const char* name, const Conjunction<AnyPattern>& all, const P& meant, const Frame& frame) {
  for (int row = 0; row < frame.num_queries; ++row)
    for (int column = 0; column < frame.num_keys; ++column)
      check::that(all.keep(frame, row, column) == meant.keep(frame, row, column),
                  "%s: keep differs at row %d, column %d", name, row, column);
}

void check_bands(const Frame& frame) {
  check_pattern("Full", Full{}, frame, Exact::yes);
  check_pattern("Causal", Causal{}, frame, Exact::yes);
  const int sides[][2] = {{0, 0}, {5, 0}, {3, 7}, {64, 64}, {-1, 2}, {70, -1}, {-1, -1}};
  for (const auto& [left, right] : sides)
    check_pattern("SlidingWindow", SlidingWindow::from(window_term(left, right)), frame, Exact::yes);
  // Sides that only a struct can have: keys from some distance before the query on.
  const int behind[][2] = {{70, -1}, {70, -70}, {kUnlimited, -64}, {100, -33}};
  for (const auto& [left, right] : behind)
    check_pattern("SlidingWindow far behind", SlidingWindow{left, right}, frame, Exact::yes);
  PatternTerm term = window_term(100, 0);
  term.num_ints = 3;
  term.ints[2] = 33;
  check::that(SlidingWindow::from(term).left == 100 && SlidingWindow::from(term).right == -33, "three numbers");
  check_pattern("SlidingWindow of nothing", SlidingWindow{10, -11}, frame, Exact::no);
  const SlidingWindow window{20, 4};
  check_pattern("And<SlidingWindow, Causal>", And<SlidingWindow, Causal>{window, {}}, frame, Exact::no);
  check_same_keep("sliding_window & causal", conjunction({window_term(20, 4), plain_term(1)}),
                  intersect(window, Causal{}.band()), frame);
  check_pattern("no terms", conjunction({}), frame, Exact::yes);
  check_pattern("full", conjunction({plain_term(0)}), frame, Exact::yes);
}

void check_masks(const cases::FrameCase& one, unsigned seed) {
  const Frame& frame = one.frame;
  const int blocks[][2] = {{64, 64}, {128, 128}, {16, 32}, {48, 16}};
  for (const auto& [block_rows, block_columns] : blocks)
    for (const double density : {0.0, 0.3, 1.0}) {
      const cases::Mask mask(one.rows, one.columns, block_rows, block_columns, density, ++seed);
      check_pattern("BlockMask", mask.pattern(), frame, Exact::yes);
      if (density != 0.3) continue;
      const And<BlockMask, Causal> causal{mask.pattern(), {}};
      check_pattern("And<BlockMask, Causal>", causal, frame, Exact::no);
      check_pattern("block_mask", conjunction({mask_term(mask)}), frame, Exact::yes);
      const auto all = conjunction({mask_term(mask), plain_term(1)});
      check_pattern("block_mask & causal", all, frame, Exact::no);
      check_same_keep("block_mask & causal", all, causal, frame);
      const cases::Mask other(one.rows, one.columns, 32, 48, 0.5, ++seed);
      check_pattern("four terms", conjunction({mask_term(other), window_term(50, 9), plain_term(0), mask_term(mask)}),
                    frame, Exact::no);
    }
}

/// Every field of a frame whose rows and columns change places; twice, it is the frame.
void check_transposed_frame() {
  const Frame frame{1, 2, 30, 40, 5, 6, 700, 800};
  const auto same = [](const Frame& a, const Frame& b) {
    return a.batch == b.batch && a.head == b.head && a.num_queries == b.num_queries && a.num_keys == b.num_keys &&
           a.q_start == b.q_start && a.k_start == b.k_start && a.first_row == b.first_row &&
           a.first_column == b.first_column;
  };
  check::that(same(transposed(frame), {1, 2, 40, 30, 6, 5, 800, 700}), "transposed frame");
  check::that(same(transposed(transposed(frame)), frame), "a frame transposed twice");
}

}  // namespace

int main() {
  check_transposed_frame();
  unsigned seed = 0;
  for (const cases::FrameCase& one : cases::frames()) {
    check_bands(one.frame);
    check_masks(one, seed += 100);
  }
  return summary("test_patterns");
}
