// What a persistent block of threads works on: the pieces of a pass, their order, and where their rows lie.
#pragma once

#include "splash/core/frame.hpp"
#include "splash/patterns/arithmetic.hpp"

SPLASH_NAMESPACE_BEGIN
namespace collective {

/// How the rows and columns of the tensors are dealt out to problems of their own.
/// residues > 1: a problem is one class of positions modulo `residues` of one head (Dilated).
/// keys_in_runs > 0: keys are those of KeyRuns, so many of them in all.
/// pack() > 1: a problem is all query heads of one key/value head; its rows are (query, head), the head running faster.
/// key_major: keys are the rows and queries the columns (backward), of the query heads of one key/value head: the
/// problem's first head, and those at multiples of member_step before members_end from there.
struct Geometry {
  Positions positions;
  int batches;  ///< packed sequences are batch entries
  int num_queries, num_keys, heads;
  int group;  ///< query heads a key/value head
  bool key_major = false;
  patterns::FastDivide residues{1};
  int log2_pack = 0;
  int first_head = 0, head_step = 1;  ///< of a problem's first head to that of the next
  int member_step = 1, members_end = 1;
  int keys_in_runs = 0;
  int first_run = 0, run_step = 0;  ///< rows of the tensor
  patterns::FastDivide run_length{1};
  patterns::FastDivide problems_a_batch{1};

  SPLASH_HD int pack() const { return 1 << log2_pack; }
  SPLASH_HD bool packed_sequences() const { return positions.cu_queries != nullptr; }
  SPLASH_HD int num_rows() const { return key_major ? num_keys : num_queries; }
  SPLASH_HD int num_columns() const { return key_major ? num_queries : num_keys; }
};

/// Row r of the problem lies in row (outer + r) * residues + inner of the tensor.
struct Place {
  int outer, inner;
};

/// One piece: a tile of rows against all its columns, or against one of several ranges of them.
struct WorkTile {
  Frame frame;  ///< in rows and columns of the problem, its "queries" and "keys"; frame.head is the first of the heads
  int row_begin;  ///< counts (query, head)
  int row_count;  ///< rows of the problem that are stored, real or not
  Place queries, keys;
  int column_begin, column_end;
  int columns_inside;  ///< columns before the end of the tensor
  int partial;         ///< which tile of the workspace takes the result; -1 where it is final
  bool any, end;       ///< any tile to visit at all; no further work
};

/// All pieces in the order in which they begin: tiles that are split over their columns since they are long; then those
/// of `section` problems after those of the section before, whose columns fit the L2 cache together; then the last
/// tiles of all problems. Tiles begin with the last rows, of keys with the first ones: under causal patterns these are
/// the longest, and the short ones in the end let all blocks of threads end at a time. Where all are long, the last
/// ones are split instead.
struct Schedule {
  int row_tiles = 0;
  int first_split = 0, last_split = 0;  ///< row tiles at either end that are split
  int whole_tiles = 0;
  int section_tiles = 0;  ///< of the whole tiles of a problem, those that are worked on in sections
  bool first_rows_first = false;
  patterns::FastDivide splits{1}, split_tiles{1}, problems{1};
  patterns::FastDivide section_items{1}, section{1}, last_section{1};
  int split_items = 0, items = 0;
  int first_split_item = 0;  ///< greater than 0: the last pieces are the split ones
  int* counter = nullptr;    ///< next piece nobody works on yet; nullptr: pieces are dealt out beforehand
};

/// Which problem, row tile and key range a piece is.
struct Item {
  int problem, tile, split;
};

/// Of the tiles of which not every one is split, the one whose turn it is; its split is left to the caller.
SPLASH_HD Item whole_item_of(const Schedule& schedule, int index) {
  const int in_sections = schedule.problems.divisor * schedule.section_tiles;
  int first = 0, from = 0;  // problem of the section, tile
  const patterns::FastDivide* count = &schedule.problems;
  if (index < in_sections) {
    const int at = schedule.section_items.quotient(index);
    index -= at * schedule.section_items.divisor;
    first = at * schedule.section.divisor;
    count = first + schedule.section.divisor < schedule.problems.divisor ? &schedule.section : &schedule.last_section;
  } else {
    index -= in_sections;
    from = schedule.section_tiles;
  }
  const int step = count->quotient(index), problem = first + index - step * count->divisor, tile = from + step;
  return {problem, schedule.first_split + (schedule.first_rows_first ? tile : schedule.whole_tiles - 1 - tile), -1};
}

SPLASH_HD Item item_of(const Schedule& schedule, int index) {
  const int first = schedule.first_split_item, split = index - first;
  if (split < 0 || split >= schedule.split_items)
    return whole_item_of(schedule, first > 0 ? index : index - schedule.split_items);
  const int at = schedule.splits.quotient(split), range = split - at * schedule.splits.divisor;
  if (first > 0) {
    Item item = whole_item_of(schedule, first + at);
    item.split = range;
    return item;
  }
  const int problem = schedule.split_tiles.quotient(at), tile = at - problem * schedule.split_tiles.divisor;
  const int last = schedule.row_tiles - schedule.split_tiles.divisor;
  return {problem, tile < schedule.first_split ? tile : last + tile, range};
}

/// Rows n = residue, residue + residues, ... below count.
SPLASH_HD int class_count(int count, int residue, const patterns::FastDivide& residues) {
  return count <= residue ? 0 : residues.quotient(count - residue + residues.divisor - 1);
}

/// column_end, any and end are left to the caller.
SPLASH_HD void make_work_tile(WorkTile& work, const Geometry& geometry, const Schedule& schedule, int rows, int index) {
  const Item item = item_of(schedule, index);
  const int batch = geometry.problems_a_batch.quotient(item.problem);
  int head = item.problem - batch * geometry.problems_a_batch.divisor, residue = 0;
  const patterns::FastDivide& residues = geometry.residues;
  if (residues.divisor > 1) {
    const int all = head;
    head = residues.quotient(all);
    residue = all - head * residues.divisor;
  }
  head = geometry.first_head + head * geometry.head_step;
  Frame frame = geometry.packed_sequences()
                    ? make_packed_frame(geometry.positions, batch, head, geometry.num_queries, geometry.num_keys)
                    : make_frame(geometry.positions, batch, head, geometry.num_queries, geometry.num_keys);
  if (geometry.key_major) frame = transposed(frame);
  int row_count = geometry.packed_sequences() ? frame.num_queries : geometry.num_rows();
  Place queries{frame.first_row, 0}, keys{frame.first_column, 0};
  if (residues.divisor > 1) {
    const int step = residues.divisor, shift = frame.q_start - frame.k_start;
    const int key_residue = patterns::floor_mod(residue + shift, residues);
    row_count = class_count(row_count, residue, residues);
    frame.num_queries = class_count(frame.num_queries, residue, residues);
    frame.num_keys = class_count(frame.num_keys, key_residue, residues);
    frame.q_start = patterns::floor_div(residue + shift - key_residue, residues);
    frame.k_start = 0;
    const int row = frame.first_row + residue, column = frame.first_column + key_residue;
    queries.outer = residues.quotient(row), queries.inner = row - queries.outer * step;
    keys.outer = residues.quotient(column), keys.inner = column - keys.outer * step;
  }
  work.frame = frame;
  work.row_begin = item.tile * rows;
  work.row_count = row_count << geometry.log2_pack;
  work.queries = queries;
  work.keys = keys;
  work.columns_inside = class_count(geometry.num_columns(), keys.inner, residues) - keys.outer;
  if (geometry.keys_in_runs > 0) {
    if (geometry.key_major)
      work.frame.num_queries = work.row_count = geometry.keys_in_runs;
    else
      work.frame.num_keys = work.columns_inside = geometry.keys_in_runs;
  }
  work.partial = item.split < 0 ? -1 : index - schedule.first_split_item;
  work.column_begin = item.split;  // the split, until the pattern says where the keys begin
}

/// Where the maps have key n of a problem whose keys lie at `place`.
SPLASH_HD Place key_place(const Geometry& geometry, const Place& place, int n) {
  if (geometry.keys_in_runs == 0) return {place.outer + n, place.inner};
  const int run = geometry.run_length.quotient(n);
  return {run, n - run * geometry.run_length.divisor};
}

/// Row of k of key n of a problem whose keys lie at `place`, where keys are columns.
SPLASH_HD int column_at(const Geometry& geometry, const Place& place, int n) {
  const Place at = key_place(geometry, place, n);
  if (geometry.keys_in_runs > 0) return geometry.first_run + at.outer * geometry.run_step + at.inner;
  return at.outer * geometry.residues.divisor + at.inner;
}

/// Row of the tensor of row n of a problem whose rows lie at `place`.
SPLASH_HD int64_t row_at(const Geometry& geometry, const Place& place, int n) {
  if (!geometry.key_major || geometry.keys_in_runs == 0)
    return int64_t(place.outer + n) * geometry.residues.divisor + place.inner;
  const Place at = key_place(geometry, place, n);
  return geometry.first_run + int64_t(at.outer) * geometry.run_step + at.inner;
}

/// Where query n of a problem that lies at `place` stands in (B, Hq, Nq) tensors.
SPLASH_HD int64_t query_at(const Geometry& geometry, const Frame& frame, int head, const Place& place, int n) {
  const int batch = geometry.packed_sequences() ? 0 : frame.batch;
  return (int64_t(batch) * geometry.heads + head) * geometry.num_queries +
         int64_t(place.outer + n) * geometry.residues.divisor + place.inner;
}

/// Tiles of so many queries of float32 dQ: those of a problem follow each other, and no two problems share one. Packed
/// sequences begin anywhere, so each has a tile more than its queries need.
struct QueryTiles {
  int rows, each;  ///< of a tile; tiles of a head's class
  SPLASH_HD int64_t count(const Geometry& geometry) const {
    const int batches = geometry.packed_sequences() ? 1 : geometry.batches;
    return int64_t(batches) * geometry.heads * geometry.residues.divisor * each;
  }
  SPLASH_HD int first(const Geometry& geometry, const Frame& frame, int head, const Place& place) const {
    const bool packed = geometry.packed_sequences();
    const int line = (packed ? 0 : frame.batch) * geometry.heads + head;
    return (line * geometry.residues.divisor + place.inner) * each + (packed ? place.outer / rows + frame.batch : 0);
  }
};

SPLASH_HD QueryTiles query_tiles(const Geometry& geometry, int rows) {
  const int step = geometry.residues.divisor, longest = (geometry.num_queries + step - 1) / step;
  return {rows, geometry.packed_sequences() ? longest / rows + geometry.batches + 1 : (longest + rows - 1) / rows};
}

}  // namespace collective
SPLASH_NAMESPACE_END
