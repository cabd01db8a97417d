// Which kernels of the Hopper backward a call takes: a case for each reason.
#include <vector>

#include "check.hpp"
#include "splash/device/sm90/strategy.hpp"
#include "splash/patterns/block_diagonal.hpp"
#include "splash/patterns/block_mask.hpp"
#include "splash/patterns/compose.hpp"
#include "splash/patterns/sliding_window.hpp"

namespace {

using namespace splash;
using device::Strategy;
using patterns::BlockDiagonal;
using patterns::BlockMask;
using patterns::SlidingWindow;
using tuning::Spans;
using Any = patterns::Conjunction<patterns::AnyOf<SlidingWindow, BlockDiagonal>>;

struct Case {
  AttentionInputs in;
  Layout layout;
  BackwardJoin join;
  bool deterministic = false, learns = false;
  std::vector<int32_t> ends;

  explicit Case(int64_t queries, int64_t keys) {
    in.q.shape[2] = queries;
    in.k.shape[2] = keys;
    in.positions.q_start = keys - queries;
  }
  explicit Case(int64_t length) : Case(length, length) {}

  Case& pack(int64_t sequences, int64_t longest) {
    ends.resize(size_t(sequences) + 1);
    in.positions.cu_queries = in.positions.cu_keys = ends.data();
    in.positions.sequences = sequences;
    in.positions.max_queries = in.positions.max_keys = longest;
    return *this;
  }
};

template <class Pattern, int HeadDim, Spans Span = Spans::any>
void expect(const char* what, Strategy wanted, const Pattern& pattern, const Case& c) {
  const Strategy found = device::strategy_backward_sm90<Pattern, HeadDim, Span>(pattern, c.in, c.layout, c.join,
                                                                                c.deterministic, c.learns);
  check::that(found == wanted, "%s, D %d: %s, not %s", what, HeadDim, device::words(found), device::words(wanted));
}

template <class Change>
Case changed(int64_t length, Change change) {
  Case c(length);
  change(c);
  return c;
}

SlidingWindow window(int64_t left, int64_t right) {
  PatternTerm term;
  term.ints[term.num_ints++] = left, term.ints[term.num_ints++] = right;
  return SlidingWindow::from(term);
}

BlockDiagonal blocks(int64_t size, bool causal) {
  PatternTerm term;
  term.ints[term.num_ints++] = size, term.ints[term.num_ints++] = causal;
  return BlockDiagonal::from(term);
}

template <int HeadDim>
void check_long_rows() {
  const int enough = tuning::fused_scores(HeadDim);
  const auto all = window(-1, -1), causal = window(-1, 0);
  expect<SlidingWindow, HeadDim>("all keys", Strategy::fused, all, Case(4096));
  expect<SlidingWindow, HeadDim>("causal", Strategy::fused, causal, Case(4096));
  expect<SlidingWindow, HeadDim>("rows just long enough", Strategy::fused, all, Case(enough));
  expect<SlidingWindow, HeadDim>("rows too short", Strategy::two_sweeps, all, Case(enough - 1));
  expect<SlidingWindow, HeadDim>("a narrow window", Strategy::two_sweeps, window(60, 0), Case(4096));
  expect<SlidingWindow, HeadDim>("few queries", Strategy::two_sweeps, all, Case(16, 4096));
  expect<SlidingWindow, HeadDim>("deterministic", Strategy::two_sweeps, all,
                                 changed(4096, [](Case& c) { c.deterministic = true; }));
  expect<SlidingWindow, HeadDim>("a sink that learns", Strategy::two_sweeps, all,
                                 changed(4096, [](Case& c) { c.learns = true; }));
  expect<SlidingWindow, HeadDim>("a later part", Strategy::two_sweeps, all,
                                 changed(4096, [](Case& c) { c.join.adds_queries = true; }));
  expect<SlidingWindow, HeadDim>("keys of which others wrote", Strategy::fused, all,
                                 changed(4096, [](Case& c) { c.join.adds_keys = true; }));
  expect<SlidingWindow, HeadDim>("some heads", Strategy::two_sweeps, all,
                                 changed(4096, [](Case& c) { c.layout.heads.count = 2; }));
  expect<SlidingWindow, HeadDim>("runs of keys", Strategy::two_sweeps, all,
                                 changed(4096, [](Case& c) { c.layout.key_runs = {64, 128, 0, 2048}; }));
  expect<SlidingWindow, HeadDim>("few long sequences", Strategy::fused, all, Case(4096).pack(2, 2048));
  expect<SlidingWindow, HeadDim>("many short sequences", Strategy::two_sweeps, all, Case(4096).pack(80, 4096));
  expect<SlidingWindow, HeadDim>("classes that are long", Strategy::fused, all,
                                 changed(4096, [](Case& c) { c.layout.residues = 4; }));
  expect<SlidingWindow, HeadDim>("classes that are short", Strategy::two_sweeps, all,
                                 changed(4096, [](Case& c) { c.layout.residues = 64; }));
}

template <int HeadDim>
void check_closed() {
  const BlockDiagonal small = blocks(64, false);
  expect<BlockDiagonal, HeadDim>("blocks of half a piece", Strategy::closed, small, Case(4096));
  expect<BlockDiagonal, HeadDim>("causal ones", Strategy::closed, blocks(128, true), Case(4096));
  expect<BlockDiagonal, HeadDim>("blocks across pieces", Strategy::two_sweeps, blocks(96, false), Case(4096));
  expect<BlockDiagonal, HeadDim, Spans::narrow>("an instance for narrow spans", Strategy::closed, small, Case(4096));
  expect<BlockDiagonal, HeadDim, Spans::narrow>("which fuses nothing", Strategy::two_sweeps, blocks(4096, false),
                                                Case(4096));
  expect<SlidingWindow, HeadDim>("few keys", Strategy::closed, window(-1, -1), Case(128));
  expect<SlidingWindow, HeadDim>("a window that leaves rows empty", Strategy::two_sweeps, SlidingWindow{9, -1},
                                 Case(128));
  expect<BlockDiagonal, HeadDim>("deterministic", Strategy::closed, small,
                                 changed(4096, [](Case& c) { c.deterministic = true; }));
  for (const bool queries : {false, true})
    expect<BlockDiagonal, HeadDim>("a later part", Strategy::two_sweeps, small, changed(4096, [&](Case& c) {
                                     (queries ? c.join.adds_queries : c.join.adds_keys) = true;
                                   }));
  expect<BlockDiagonal, HeadDim>("a sink that learns", Strategy::two_sweeps, small,
                                 changed(4096, [](Case& c) { c.learns = true; }));
  expect<BlockDiagonal, HeadDim>("shifted rows", Strategy::two_sweeps, small,
                                 changed(4096, [](Case& c) { c.in.positions.q_start = 1; }));
  expect<BlockDiagonal, HeadDim>("a slice that begins within a piece", Strategy::two_sweeps, small,
                                 changed(4096, [](Case& c) { c.in.positions.q_start = c.in.positions.k_start = 64; }));
  const int32_t length = 4000;
  expect<BlockDiagonal, HeadDim>("padding", Strategy::two_sweeps, small,
                                 changed(4096, [&](Case& c) { c.in.positions.lengths = &length; }));
  expect<BlockDiagonal, HeadDim>("packed", Strategy::two_sweeps, small, Case(4096).pack(2, 2048));
}

/// Where the instance has other kernels, or none of these.
void check_instances() {
  const auto all = window(-1, -1);
  expect<SlidingWindow, 96>("no fused kernel", Strategy::two_sweeps, all, Case(4096));
  expect<BlockDiagonal, 96>("no closed kernel", Strategy::two_sweeps, blocks(64, false), Case(4096));
  expect<SlidingWindow, 192>("two groups", Strategy::by_output, all, Case(4096));
  expect<SlidingWindow, 256>("two groups", Strategy::by_output, all, Case(4096));
  PatternSpec spec;
  expect<Any, 128>("an interpreted pattern", Strategy::two_sweeps, Any::from(spec), Case(4096));
  expect<Any, 192>("an interpreted pattern", Strategy::by_output, Any::from(spec), Case(4096));
  // Lists are not read.
  const BlockMask lists{};
  expect<BlockMask, 128, Spans::lists128>("lists of wide blocks", Strategy::fused, lists, Case(4096));
  expect<BlockMask, 128, Spans::lists64>("lists of narrow blocks", Strategy::two_sweeps, lists, Case(4096));
  expect<BlockMask, 128>("lists of odd blocks", Strategy::two_sweeps, lists, Case(4096));
  expect<BlockMask, 128, Spans::lists128>("short lists", Strategy::two_sweeps, lists, Case(256));
  for (int d = 0; d < 3; ++d) {
    expect<SlidingWindow, 128>("no rows", Strategy::nothing, all, changed(4096, [&](Case& c) { c.in.q.shape[d] = 0; }));
    expect<SlidingWindow, 128>("no keys", Strategy::nothing, all, changed(4096, [&](Case& c) { c.in.k.shape[d] = 0; }));
  }
}

}  // namespace

int main() {
  check_long_rows<32>();
  check_long_rows<64>();
  check_long_rows<128>();
  check_closed<32>();
  check_closed<64>();
  check_closed<128>();
  check_instances();
  return check::summary("strategy");
}
