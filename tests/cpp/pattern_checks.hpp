// Brute force: what a pattern says of tiles, steps and bits against keep(row, column) of every element.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "check.hpp"
#include "splash/patterns/tile_walk.hpp"
#include "splash/patterns/transpose.hpp"

namespace brute_force {

using namespace splash;
using namespace splash::patterns;

/// What a pattern says beyond what it must: `no`, nothing; `empty`, it never visits what keeps nothing; `yes`, it also
/// knows all full tiles.
enum class Exact { no, empty, yes };

inline long brute_forced_tiles = 0, tile_bits_checked = 0;
inline long inexact_tiles = 0;

/// How many scores a pattern keeps in any rectangle, from keep() alone.
class Kept {
 public:
  template <class P>
  Kept(const P& pattern, const Frame& frame, int rows, int columns) : width_(columns + 1), sums_((rows + 1) * width_) {
    for (int row = 0; row < rows; ++row)
      for (int column = 0, line = 0; column < columns; ++column) {
        line += pattern.keep(frame, row, column);
        sums_[(row + 1) * width_ + column + 1] = sums_[row * width_ + column + 1] + line;
      }
  }
  int count(const Box& box) const {
    return at(box.row_end, box.column_end) - at(box.row_begin, box.column_end) - at(box.row_end, box.column_begin) +
           at(box.row_begin, box.column_begin);
  }

 private:
  int at(int row, int column) const { return sums_[row * width_ + column]; }
  int width_;
  std::vector<int> sums_;
};

/// Which of a pattern's two walks is checked, as a failure names it: that of rows along columns, or, on its transpose,
/// that of columns along rows.
struct Side {
  const char *hook, *lines, *note;
};
inline constexpr Side kAlongColumns{"next_column", "rows", ""};
inline constexpr Side kAlongRows{"next_row", "columns", " (of columns x rows)"};

inline int area(const Box& box) { return (box.row_end - box.row_begin) * (box.column_end - box.column_begin); }

/// classify() of every tile: `empty` and `full` must be true, and where the pattern is exact `partial` must
/// be, too.
/// The walk visits, in order, just the tiles that are not called empty.
template <class P>
void check_tiles(const char* name, const P& pattern, const Frame& frame, int rows, int columns, int tile_rows,
                 int tile_columns, Exact exact, const Side& side = kAlongColumns) {
  const Kept kept(pattern, frame, rows, columns);
  for (int row = 0; row < rows; row += tile_rows) {
    const int row_end = row + tile_rows < rows ? row + tile_rows : rows;
    TileWalk<P> walk(pattern, frame, row, row_end, columns, tile_columns);
    for (int column = 0; column < columns; column += tile_columns) {
      const Box box{row, row_end, column, column + tile_columns < columns ? column + tile_columns : columns};
      const int count = kept.count(box);
      const TileState truth =
          count == 0 ? TileState::empty : (count == area(box) ? TileState::full : TileState::partial);
      const TileState state = pattern.classify(frame, box);
      const bool may_be_partial = exact == Exact::no || (exact == Exact::empty && truth == TileState::full);
      ++brute_forced_tiles;
      inexact_tiles += state != truth;
      check::that(state == truth || (state == TileState::partial && may_be_partial),
                  "%s: classify says %d of [%d,%d)x[%d,%d)%s, which is %d", name, int(state), box.row_begin,
                  box.row_end, box.column_begin, box.column_end, side.note, int(truth));
      if constexpr (TileBitsPattern<P>)
        if (pattern.has_tile_bits(frame, tile_columns)) {
          const int tile = column / tile_columns;
          const TileBits bits = pattern.tile_bits(frame, row, row_end, tile / 32);
          const bool kept = bits.kept >> tile % 32 & 1, full = bits.full >> tile % 32 & 1;
          ++tile_bits_checked;
          check::that((kept || count == 0) && (!full || truth == TileState::full),
                      "%s: tile bits %d %d of rows [%d,%d), tile %d of %d columns, which keeps %d", name, kept, full,
                      row, row_end, tile, tile_columns, count);
        }
      const bool visited = !walk.done() && walk.begin() == column;
      check::that(visited ? state != TileState::empty : count == 0,
                  "%s: the walk by %s and classify %s [%d,%d)x[%d,%d)%s, which keeps %d", name, side.hook,
                  visited ? "visits" : "misses", row, row_end, column, box.column_end, side.note, count);
      if (!visited) continue;
      check::that(walk.state() == state && walk.end() == box.column_end && walk.tile() == column / tile_columns,
                  "%s: the tile of the walk by %s differs at [%d,...)x[%d,...)%s", name, side.hook, row, column,
                  side.note);
      walk.advance();
      check::that(walk.done() || walk.begin() > column, "%s: the walk by %s goes back at [%d,...)x[%d,...)%s", name,
                  side.hook, row, column, side.note);
    }
    check::that(walk.done(), "%s: the walk by %s goes on past the end, from [%d,...)%s", name, side.hook, row,
                side.note);
  }
}

/// next_column() never steps over a kept score, and where the pattern is exact it stops at one if there is any; so does
/// next_row(), which is the transpose's.
template <class P>
void check_steps(const char* name, const P& pattern, const Frame& frame, int rows, int columns, Exact exact,
                 const Side& side = kAlongColumns) {
  const Kept kept(pattern, frame, rows, columns);
  for (int height : {1, 16, 64, 100})
    for (int row = 0; row < rows; row += height) {
      const int row_end = row + height < rows ? row + height : rows;
      for (int column = 0; column < columns; ++column) {
        const int next = pattern.next_column(frame, row, row_end, column);
        const int stop = next < columns ? next : columns;
        check::that(next >= column, "%s: %s(%d) of %s [%d,%d) is %d, before it", name, side.hook, column, side.lines,
                    row, row_end, next);
        check::that(stop == column || kept.count({row, row_end, column, stop}) == 0,
                    "%s: %s(%d) of %s [%d,%d) is %d and skips kept scores", name, side.hook, column, side.lines, row,
                    row_end, next);
        if (exact != Exact::no && stop < columns)
          check::that(kept.count({row, row_end, stop, stop + 1}) > 0, "%s: %s(%d) of %s [%d,%d) is %d, not kept", name,
                      side.hook, column, side.lines, row, row_end, next);
      }
    }
}

/// Twice transposed is the pattern itself, in all four answers.
template <class P>
void check_involution(const char* name, const P& pattern, const Frame& frame) {
  const Transposed<P> once{pattern};
  const Transposed<Transposed<P>> twice{once};
  for (int row = 0; row < frame.num_queries; row += 7)
    for (int column = 0; column < frame.num_keys; column += 5) {
      const int row_end = row + 7 < frame.num_queries ? row + 7 : frame.num_queries;
      const int column_end = column + 5 < frame.num_keys ? column + 5 : frame.num_keys;
      const Box box{row, row_end, column, column_end}, mirrored{column, column_end, row, row_end};
      const bool same =
          twice.keep(frame, row, column) == pattern.keep(frame, row, column) &&
          once.keep(frame, column, row) == pattern.keep(frame, row, column) &&
          twice.classify(frame, box) == pattern.classify(frame, box) &&
          once.classify(frame, mirrored) == pattern.classify(frame, box) &&
          twice.next_column(frame, row, row_end, column) == pattern.next_column(frame, row, row_end, column) &&
          twice.next_row(frame, column, column_end, row) == pattern.next_row(frame, column, column_end, row);
      check::that(same, "%s: its transpose differs at row %d, column %d", name, row, column);
    }
}

/// What a kernel asks whose rows are keys, of a frame of keys and queries and of the query head `member` places on.
template <class P>
void check_key_major(const char* name, const P& pattern, const Frame& frame, int member) {
  const KeyMajor<P> view{pattern, member};
  const Frame other{frame.batch,   frame.head - member, frame.num_keys,     frame.num_queries,
                    frame.k_start, frame.q_start,       frame.first_column, frame.first_row};
  check::that(view.keeps_self(other) == keeps_self(pattern, frame), "%s: keeps_self of keys for rows", name);
  if constexpr (TileBitsPattern<KeyMajor<P>>)
    for (const int size : {16, 48, 64})
      check_tiles(name, view, other, frame.num_keys, frame.num_queries, 64, size, Exact::no);
  for (int row = 0; row < frame.num_queries; row += 7)
    for (int column = 0; column < frame.num_keys; column += 5) {
      const int row_end = row + 7 < frame.num_queries ? row + 7 : frame.num_queries;
      const int column_end = column + 5 < frame.num_keys ? column + 5 : frame.num_keys;
      const bool same =
          view.keep(other, column, row) == pattern.keep(frame, row, column) &&
          view.classify(other, {column, column_end, row, row_end}) ==
              pattern.classify(frame, {row, row_end, column, column_end}) &&
          view.next_column(other, column, column_end, row) == pattern.next_row(frame, column, column_end, row) &&
          view.next_row(other, row, row_end, column) == pattern.next_column(frame, row, row_end, column);
      check::that(same, "%s: with keys for rows it differs at row %d, column %d", name, row, column);
      if (row % 3 || column % 4) continue;
      const int count = frame.num_keys - column;
      uint64_t kept = 0, inside = count < 64 ? (uint64_t(1) << count) - 1 : ~uint64_t(0);
      for (int c = 0; c < 64 && c < count; ++c) kept |= uint64_t(pattern.keep(frame, row, column + c)) << c;
      check::that((view.kept_rows(other, column, row) & inside) == kept, "%s: kept_rows differ at row %d, column %d",
                  name, row, column);
    }
}

/// kept_bits() of every row from every column on is keep() of the 64 columns, as far as they exist.
template <class P>
void check_bits(const char* name, const P& pattern, const Frame& frame) {
  for (int row = 0; row < frame.num_queries; ++row) {
    uint64_t kept = 0;  // of the columns from `column` on, so the walk goes backwards
    for (int column = frame.num_keys - 1; column >= 0; --column) {
      const int count = frame.num_keys - column;
      const uint64_t inside = count < 64 ? (uint64_t(1) << count) - 1 : ~uint64_t(0);
      kept = kept << 1 | uint64_t(pattern.keep(frame, row, column));
      check::that((pattern.kept_bits(frame, row, column) & inside) == kept, "%s: kept_bits differ at row %d, column %d",
                  name, row, column);
    }
  }
}

/// Where a pattern says that every key is kept by its own row, it is.
template <class P>
void check_self_kept(const char* name, const P& pattern, const Frame& frame) {
  if (!keeps_self(pattern, frame)) return;
  for (int row = 0; row < frame.num_queries; ++row)
    if (const int64_t column = int64_t(frame.i(row)) - frame.k_start; column >= 0 && column < frame.num_keys)
      check::that(pattern.keep(frame, row, int(column)), "%s: row %d does not keep its own column %d", name, row,
                  int(column));
}

/// keep() against the formula of SPEC, a function of the positions.
template <class P, class Formula>
void check_formula(const char* name, const P& pattern, const Frame& frame, const Formula& formula) {
  for (int row = 0; row < frame.num_queries; ++row)
    for (int column = 0; column < frame.num_keys; ++column)
      check::that(pattern.keep(frame, row, column) == formula(int64_t(frame.i(row)), int64_t(frame.j(column))),
                  "%s: keep is wrong at i %d, j %d", name, frame.i(row), frame.j(column));
}

template <class P>
void check_pattern(const char* name, const P& pattern, const Frame& frame, Exact exact) {
  const Transposed<P> transposed{pattern};
  check_steps(name, pattern, frame, frame.num_queries, frame.num_keys, exact);
  check_steps(name, transposed, frame, frame.num_keys, frame.num_queries, exact, kAlongRows);
  for (const auto& [tile_rows, tile_columns] : {std::pair{64, 64}, {128, 64}, {16, 16}, {48, 128}, {7, 5}, {1, 33}}) {
    check_tiles(name, pattern, frame, frame.num_queries, frame.num_keys, tile_rows, tile_columns, exact);
    check_tiles(name, transposed, frame, frame.num_keys, frame.num_queries, tile_columns, tile_rows, exact, kAlongRows);
  }
  check_involution(name, pattern, frame);
  for (const int member : {0, 2}) check_key_major(name, pattern, frame, member);
  check_self_kept(name, pattern, frame);
  if constexpr (BitsPattern<P>) check_bits(name, pattern, frame);
}

inline int summary(const char* name) {
  std::printf("brute-forced tiles: %ld, of which %ld are partial in name only\n", brute_forced_tiles, inexact_tiles);
  return check::summary(name);
}

}  // namespace brute_force
