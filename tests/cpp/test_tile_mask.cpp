// The host's masks of a tile, by bits and by vectors, against keep() of every score.
#include <vector>

#include "pattern_cases.hpp"
#include "pattern_checks.hpp"
#include "splash/cpu/mask.hpp"
#include "splash/patterns/block_diagonal.hpp"
#include "splash/patterns/causal.hpp"
#include "splash/patterns/compose.hpp"
#include "splash/patterns/dilated.hpp"
#include "splash/patterns/element_mask.hpp"
#include "splash/patterns/fixed.hpp"
#include "splash/patterns/index_causal.hpp"
#include "splash/patterns/streaming.hpp"
#include "tensor_cases.hpp"

namespace {

using namespace brute_force;
using cpu::Lanes;

/// A pattern without bits of its own.
struct Checkered {
  SPLASH_HD bool keep(const Frame&, int row, int column) const { return (row / 3 + column) % 2 == 0; }
  SPLASH_HD TileState classify(const Frame&, const Box&) const { return TileState::partial; }
  SPLASH_HD int next_column(const Frame&, int, int, int column) const { return column; }
  SPLASH_HD int next_row(const Frame&, int, int, int row) const { return row; }
};

/// Scores 1 of a tile whose lines are padded to whole vectors; the mask may touch that padding, nothing beyond it.
template <Lanes kLanes, class Real, class P>
void check_scores(const char* name, const P& pattern, const Frame& frame, const Box& tile) {
  constexpr int W = cpu::Simd<Real>::kLanes;
  const bool queries = kLanes == Lanes::queries;
  const int rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
  const int lines = queries ? columns : rows, lanes = queries ? rows : columns;
  const int stride = cpu::round_up(lanes, W) + W;
  std::vector<Real> scores(std::size_t(lines) * stride, Real(1));
  cpu::mask_tile<kLanes, P, Real>(pattern, frame, tile, {scores.data(), stride});
  for (int line = 0; line < lines; ++line) {
    for (int lane = 0; lane < lanes; ++lane) {
      const int row = queries ? lane : line, column = queries ? line : lane;
      const bool kept = pattern.keep(frame, tile.row_begin + row, tile.column_begin + column);
      check::that(scores[line * stride + lane] == (kept ? Real(1) : -math::kInfinity<Real>),
                  "%s: score %d, %d of the tile at %d, %d is masked wrong", name, row, column, tile.row_begin,
                  tile.column_begin);
    }
    for (int lane = cpu::round_up(lanes, W); lane < stride; ++lane)
      check::that(scores[line * stride + lane] == Real(1), "%s: the mask leaves its tile", name);
  }
}

template <class P>
void check_columns(const char* name, const P& pattern, const Frame& frame, const Box& tile) {
  uint64_t wanted = 0;
  for (int row = tile.row_begin; row < tile.row_end; ++row)
    for (int column = tile.column_begin; column < tile.column_end; ++column)
      wanted |= uint64_t(pattern.keep(frame, row, column)) << (column - tile.column_begin);
  check::that(cpu::kept_columns(pattern, frame, tile) == wanted, "%s: kept columns of the tile at %d, %d differ", name,
              tile.row_begin, tile.column_begin);
}

template <class P>
void check_masks(const char* name, const P& pattern, const Frame& frame) {
  for (int row = 0; row < frame.num_queries; row += cpu::kTile)
    for (int column = 0; column < frame.num_keys; column += cpu::kTile) {
      const Box tile{row, row + clamp_to(frame.num_queries - row, 0, cpu::kTile), column,
                     column + clamp_to(frame.num_keys - column, 0, cpu::kTile)};
      check_scores<Lanes::queries, float>(name, pattern, frame, tile);
      check_scores<Lanes::keys, float>(name, pattern, frame, tile);
      check_scores<Lanes::queries, double>(name, pattern, frame, tile);
      check_scores<Lanes::keys, double>(name, pattern, frame, tile);
      check_columns(name, pattern, frame, tile);
    }
}

void check_transpose() {
  std::mt19937_64 random(1);
  cpu::TileBits bits, turned;
  for (uint64_t& word : bits) word = random();
  __builtin_memcpy(turned, bits, sizeof bits);
  cpu::transpose_bits(turned);
  for (int row = 0; row < 64; ++row)
    for (int column = 0; column < 64; ++column)
      check::that((bits[row] >> column & 1) == (turned[column] >> row & 1), "transposed bit %d, %d", row, column);
}

}  // namespace

int main() {
  check_transpose();
  unsigned seed = 0;
  for (const cases::FrameCase& one : cases::frames()) {
    const Frame& frame = one.frame;
    const cases::Mask mask(one.rows, one.columns, 48, 16, 0.4, ++seed);
    cases::Grid grid(one.rows, one.columns);
    for (std::size_t n = 0; n < grid.bits.size(); ++n) grid.bits[n] = n % 7 < 3;
    cases::Elements elements(grid);
    cases::Indices indices(one.rows, one.columns);
    indices.fill([](int n, int) { return n * 37 % 101; });
    check_masks("ElementMask", ElementMask::from(elements.term()), frame);
    check_masks("IndexCausal", IndexCausal::from(indices.term()), frame);
    check_masks("Fixed", Fixed{20, 3}, frame);
    check_masks("Causal", Causal{}, frame);
    check_masks("SlidingWindow", SlidingWindow{50, -20}, frame);
    check_masks("SlidingWindow", SlidingWindow{kUnlimited, -20}, frame);
    check_masks("Streaming", Streaming{10, 30}, frame);
    check_masks("BlockDiagonal", BlockDiagonal{70, true}, frame);
    check_masks("Dilated", Dilated{20, 3, false}, frame);
    check_masks("BlockMask", mask.pattern(), frame);
    check_masks("Checkered", Checkered{}, frame);
    using Bands = And<SlidingWindow, Causal>;
    check_masks("bands", Bands{{40, 9}, {}}, frame);
    check_masks("bits & bits", And<BlockMask, Checkered>{mask.pattern(), {}}, frame);
    check_masks("bits & bands", And<And<BlockMask, Bands>, Dilated>{{mask.pattern(), {{90, 20}, {}}}, {50, 2, true}},
                frame);
  }
  return check::summary("test_tile_mask");
}
