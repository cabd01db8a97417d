// How a pass is cut into pieces of work: geometry, splits over the columns, order.
#pragma once

#include <algorithm>
#include <bit>

#include "splash/collective/work.hpp"
#include "splash/core/arguments.hpp"
#include "splash/core/head_groups.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/tuning/schedule.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

/// What a kernel's blocks of threads work on at a time, and how many of them run at once.
struct Blocks {
  int rows, keys, running;
  /// Pieces for each of them at the end of a pass whose rows are uneven.
  int last_each = tuning::last_pieces(false);
};

template <patterns::Pattern Pattern>
inline constexpr int kLastEach = tuning::last_pieces(patterns::BlockListPattern<Pattern>);

/// Whether every query head sees the same pattern.
inline bool same_for_heads(const PatternSpec& spec) {
  for (int t = 0; t < spec.count; ++t)
    for (int n = 0; n < spec.terms[t].num_tensors; ++n) {
      const TensorView& tensor = spec.terms[t].tensors[n];
      if (tensor.rank < 3 || tensor.shape[1] != 1) return false;
    }
  return true;
}

/// Heads of a group share a tile of rows where the queries alone would leave most of it empty: their keys are then
/// loaded once.
inline int log2_pack_of(const AttentionInputs& in, const Layout& layout) {
  const int64_t group = in.q.shape[1] / in.k.shape[1];
  const bool expanded = in.q.shape[1] > 1 && in.q.stride[1] == 0;
  const int64_t queries = in.positions.cu_queries ? in.positions.max_queries : in.q.shape[2];
  const bool pays = group > 1 && 64 % group == 0 && queries < tuning::kPackedQueries && layout.residues == 1 &&
                    layout.heads.count == 0;
  return pays && !expanded && same_for_heads(in.pattern) ? std::countr_zero(uint64_t(group)) : 0;
}

inline collective::Geometry make_geometry(const AttentionInputs& in, const Layout& layout, bool key_major = false,
                                          bool packs = true) {
  collective::Geometry geometry{};
  geometry.positions = in.positions;
  geometry.batches = int(in.positions.cu_queries ? in.positions.sequences : in.q.shape[0]);
  geometry.num_queries = int(in.q.shape[2]);
  geometry.num_keys = int(in.k.shape[2]);
  geometry.heads = int(in.q.shape[1]);
  geometry.group = int(in.q.shape[1] / in.k.shape[1]);
  geometry.residues = int(layout.residues);
  geometry.key_major = key_major;
  geometry.log2_pack = packs ? log2_pack_of(in, layout) : 0;
  if (layout.key_runs.length > 0) {
    geometry.keys_in_runs = int(layout.key_runs.count);
    geometry.first_run = int(layout.key_runs.first);
    geometry.run_step = int(layout.key_runs.step);
    geometry.run_length = int(layout.key_runs.length);
  }
  int heads = layout.heads.count > 0 ? int(layout.heads.count) : geometry.heads >> geometry.log2_pack;
  if (key_major) {
    const HeadGroups groups = groups_of(layout.heads, geometry.heads, geometry.group);
    heads = int(groups.count);
    geometry.first_head = int(groups.first * geometry.group + groups.first_member);
    geometry.head_step = int(groups.step * geometry.group);
    geometry.member_step = int(groups.member_step);
    geometry.members_end = int(groups.members * groups.member_step);
  } else {
    geometry.first_head = int(layout.heads.first);
    geometry.head_step = int(layout.heads.step) << geometry.log2_pack;
  }
  geometry.problems_a_batch = std::max(heads * geometry.residues.divisor, 1);
  return geometry;
}

/// Ranges of keys for each of `tiles` row tiles, so that the pieces fill rounds of running blocks evenly.
inline int splits_of(int tiles, int key_tiles, int running) {
  const int most = std::clamp(key_tiles / tuning::kSplits.least_tiles, 1, tuning::kSplits.most);
  int best = 1;
  double best_share = 0;
  for (int splits = 1; splits <= most; ++splits) {
    const int pieces = tiles * splits, rounds = (pieces + running - 1) / running;
    const double time = rounds * (double(key_tiles) / splits + tuning::kSplits.piece);
    const double share = 1.0 / time;
    if (share > best_share * (1 + tuning::kSplits.gain)) best = splits, best_share = share;
  }
  return best;
}

/// What is left for the last round of running blocks, cut into ranges of columns so that it is a short one; 1 where
/// that saves next to nothing.
inline int last_round_splits(int pieces, int key_tiles, int running, int head_dim) {
  constexpr tuning::Splits kCosts = tuning::kSplits;
  const int rounds = pieces / running, rest = pieces % running;
  const int most = std::clamp(key_tiles / kCosts.least_tiles, 1, kCosts.most_of_last);
  const double whole = rounds * (key_tiles + kCosts.piece), now = whole + (rest ? key_tiles + kCosts.piece : 0);
  int best = 1;
  double best_time = now * (1 - kCosts.gain);
  for (int splits = 2; splits <= most; ++splits) {
    const int turns = (rest * splits + running - 1) / running;
    const double merge = kCosts.launch + rest * splits * kCosts.merged_piece * head_dim / 128;
    const double time = whole + turns * (double(key_tiles) / splits + kCosts.range) + merge;
    if (time < best_time) best = splits, best_time = time;
  }
  return best;
}

/// Pieces of few, long rows are split over the keys; so are rows that see all keys among others that see few.
inline collective::Schedule make_schedule(const AttentionInputs& in, const Layout& layout, const Hints& hints,
                                          const collective::Geometry& geometry, const Blocks& blocks, bool merges) {
  collective::Schedule schedule{};
  const bool packed = in.positions.cu_queries != nullptr;
  const int64_t queries = packed ? std::min(in.positions.max_queries, in.q.shape[2]) : in.q.shape[2];
  const int64_t all_keys = packed ? std::min(in.positions.max_keys, in.k.shape[2]) : in.k.shape[2];
  const int64_t keys = layout.key_runs.length > 0 ? layout.key_runs.count : all_keys;
  const int step = geometry.residues.divisor;
  const bool key_major = geometry.key_major;
  const int64_t rows = ((key_major ? keys : queries) + step - 1) / step * geometry.pack();
  const int64_t columns = ((key_major ? queries : keys) + step - 1) / step;
  const int64_t first_global = key_major ? hints.first_global_columns : hints.first_global_rows;
  const int64_t last_global = key_major ? hints.last_global_columns : hints.last_global_rows;
  schedule.row_tiles = int((rows + blocks.rows - 1) / blocks.rows);
  const int problems = geometry.batches * geometry.problems_a_batch.divisor;
  const int key_tiles = int((columns + blocks.keys - 1) / blocks.keys);

  int splits = 1;
  if (merges && problems > 0) {
    const int64_t tiles = int64_t(problems) * schedule.row_tiles;
    if (tiles < blocks.running) {
      splits = splits_of(int(tiles), key_tiles, blocks.running);
      if (splits > 1) schedule.first_split = schedule.row_tiles;
    } else if (first_global + last_global > 0 && !packed && step == 1 && key_tiles >= tuning::kSplits.global_tiles) {
      const auto tiles_of = [&](int64_t rows) {
        return int(std::min<int64_t>((rows * geometry.pack() + blocks.rows - 1) / blocks.rows, schedule.row_tiles));
      };
      const int64_t rest = rows % blocks.rows;  // the last tile may be a short one
      schedule.first_split = tiles_of(first_global);
      schedule.last_split = last_global ? tiles_of(last_global + (rest ? blocks.rows - rest : 0)) : 0;
      schedule.last_split = std::min(schedule.last_split, schedule.row_tiles - schedule.first_split);
      splits = std::clamp(key_tiles / tuning::kSplits.global_range, 2, tuning::kSplits.most);
    }
  }
  const int split_tiles = schedule.first_split + schedule.last_split, whole_tiles = schedule.row_tiles - split_tiles;
  schedule.splits = splits;
  schedule.split_tiles = std::max(split_tiles, 1);
  schedule.whole_tiles = whole_tiles;
  schedule.first_rows_first = key_major;
  schedule.problems = std::max(problems, 1);
  schedule.split_items = problems * split_tiles * splits;
  schedule.items = schedule.split_items + problems * whole_tiles;
  if (merges && hints.keeps_all && !packed && split_tiles == 0 && problems * whole_tiles > blocks.running) {
    const int pieces = schedule.items, last = pieces % blocks.running;
    if (const int parts = last_round_splits(pieces, key_tiles, blocks.running, int(in.k.shape[3])); parts > 1) {
      schedule.splits = parts;
      schedule.split_items = last * parts;
      schedule.first_split_item = pieces - last;
      schedule.items = schedule.first_split_item + schedule.split_items;
    }
  }

  // Rows that cost the same need no sections.
  const int64_t tensors = 2 * 2 * columns * in.k.shape[3];
  const int64_t bytes =
      std::max<int64_t>(key_major ? tensors * geometry.group : tensors / geometry.group * geometry.pack(), 1);
  const int most = hints.uneven ? int(std::clamp<int64_t>(tuning::kSectionBytes / bytes, 1, std::max(problems, 1))) : 1;
  const int sections = std::max((problems + most - 1) / most, 1),
            section = std::max((problems + sections - 1) / sections, 1);
  const int enough = (blocks.last_each * blocks.running + problems - 1) / std::max(problems, 1);
  const int last_tiles = hints.uneven ? std::min(whole_tiles / tuning::kLastPart, enough) : 0;
  schedule.section = section;
  schedule.section_tiles = whole_tiles - last_tiles;
  schedule.section_items = std::max(section * schedule.section_tiles, 1);
  schedule.last_section = std::max(problems - (sections - 1) * section, 1);
  return schedule;
}

/// Pieces of uneven length go to whoever is free; where there are few, or all cost the same, they are dealt out.
inline bool wants_counter(const AttentionInputs& in, const Hints& hints, const collective::Schedule& schedule,
                          int grid) {
  if (schedule.items <= grid) return false;
  if (in.positions.lengths || in.positions.kv_lengths || in.positions.cu_queries) return true;
  return hints.uneven || schedule.first_split_item > 0;
}

}  // namespace device
SPLASH_NAMESPACE_END
