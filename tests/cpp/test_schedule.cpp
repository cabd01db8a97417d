// Brute force of the pieces of work that a CUDA forward or a sweep of the backward is cut into: every row of every head
// belongs to exactly one piece, or to all ranges of columns of one tile, and columns stand where their positions say.
// Rows are queries of query heads, or keys of key/value heads.
#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "check.hpp"
#include "splash/device/schedule.hpp"

namespace {

using namespace splash;

struct Call {
  AttentionInputs in;
  Layout layout;
  Hints hints;
  std::vector<int32_t> cu_queries, cu_keys;
};

Call random_call(std::mt19937& random) {
  const auto below = [&](int n) { return int(random() % unsigned(n)); };
  Call call;
  AttentionInputs& in = call.in;
  const int group = 1 << below(4), kv_heads = 1 + below(3);
  const int batch = 1 + below(3), queries = 1 + below(below(2) ? 700 : 20), keys = 1 + below(900);
  in.q.shape[0] = in.k.shape[0] = batch;
  in.q.shape[1] = int64_t(group) * kv_heads;
  in.k.shape[1] = kv_heads;
  in.q.shape[2] = queries;
  in.k.shape[2] = keys;
  in.q.shape[3] = in.k.shape[3] = 64;
  in.q.stride[1] = 64;
  in.positions.k_start = below(50);
  in.positions.q_start = in.positions.k_start + keys - queries + below(9) - 4;
  call.layout.residues = below(3) ? 1 : 1 + below(20);
  Hints& hints = call.hints;
  hints.uneven = below(2);
  hints.keeps_all = !hints.uneven && below(2);
  if (below(3) == 0) hints.first_global_rows = below(200), hints.last_global_rows = below(100);
  if (below(3) == 0) hints.first_global_columns = below(200), hints.last_global_columns = below(100);
  if (below(3) == 0) {
    in.q.shape[0] = in.k.shape[0] = 1;
    const int sequences = below(6);
    in.positions.sequences = sequences;
    call.cu_queries = call.cu_keys = {0};
    for (int s = 0; s < sequences; ++s) {
      const int rows = below(queries - call.cu_queries.back() + 1), columns = below(keys - call.cu_keys.back() + 1);
      call.cu_queries.push_back(call.cu_queries.back() + rows);
      call.cu_keys.push_back(call.cu_keys.back() + columns);
      in.positions.max_queries = std::max<int64_t>(in.positions.max_queries, rows);
      in.positions.max_keys = std::max<int64_t>(in.positions.max_keys, columns);
    }
    in.positions.cu_queries = call.cu_queries.data();
    in.positions.cu_keys = call.cu_keys.data();
  }
  return call;
}

void check_call(const Call& call, const device::Blocks& blocks, bool merges, bool key_major) {
  const AttentionInputs& in = call.in;
  using Row = std::tuple<int, int, int>;  // batch or sequence, head of the row's tensor, row of the tensor
  const collective::Geometry geometry = device::make_geometry(call.in, call.layout, key_major, !key_major);
  const collective::Schedule schedule =
      device::make_schedule(call.in, call.layout, call.hints, geometry, blocks, merges);
  const int group = key_major ? geometry.group : 1;
  const int64_t row_start = key_major ? in.positions.k_start : in.positions.q_start;
  const int64_t column_start = key_major ? in.positions.q_start : in.positions.k_start;
  const int64_t columns = key_major ? in.q.shape[2] : in.k.shape[2];
  std::map<Row, std::vector<int>> seen;  // the ranges of columns, -1 for all of them
  for (int index = 0; index < schedule.items; ++index) {
    collective::WorkTile work;
    collective::make_work_tile(work, geometry, schedule, blocks.rows, index);
    const int split = index - schedule.first_split_item;
    check::that(work.partial == (split >= 0 && split < schedule.split_items ? split : -1), "item %d: partial %d", index,
                work.partial);
    const int step = geometry.residues.divisor;
    check::that(work.frame.head % group == 0, "head %d is not the first of its group", work.frame.head);
    const auto column_of = [&](int column) { return int64_t(work.keys.outer + column) * step + work.keys.inner; };
    check::that(column_of(work.columns_inside) >= columns && column_of(work.columns_inside - 1) < columns,
                "%d columns from column %d on are inside", work.columns_inside, int(column_of(0)));
    for (int r = work.row_begin; r < std::min(work.row_begin + blocks.rows, work.row_count); ++r) {
      const int query = r >> geometry.log2_pack, head = work.frame.head / group + (r & (geometry.pack() - 1));
      const int row = (work.queries.outer + query) * step + work.queries.inner;
      seen[{work.frame.batch, head, row}].push_back(work.column_begin);
      if (step == 1) continue;
      // Row and column 0 of a class stand a multiple of the step apart, as the frame of the class says.
      const int64_t i = row - work.frame.first_row + row_start;
      const int64_t j = column_of(0) - work.frame.first_column + column_start;
      if (!in.positions.cu_queries)
        check::that(i - j == int64_t(work.frame.i(query) - work.frame.j(0)) * step, "row %d against the first column",
                    row);
    }
  }
  const bool packed = in.positions.cu_queries;
  const int batches = int(packed ? in.positions.sequences : in.q.shape[0]);
  size_t rows = 0;
  const TensorView& of_rows = key_major ? in.k : in.q;
  const int32_t* ends = key_major ? in.positions.cu_keys : in.positions.cu_queries;
  for (int b = 0; b < batches; ++b)
    rows += size_t(of_rows.shape[1]) * size_t(packed ? ends[b + 1] - ends[b] : of_rows.shape[2]);
  check::that(seen.size() == rows, "%zu rows of %zu", seen.size(), rows);
  for (auto& [row, ranges] : seen) {
    std::sort(ranges.begin(), ranges.end());
    bool right = ranges.size() == 1 && ranges[0] == -1;
    if (!right && int(ranges.size()) == schedule.splits.divisor) {
      right = merges;
      for (int s = 0; s < schedule.splits.divisor; ++s) right &= ranges[size_t(s)] == s;
    }
    check::that(right, "batch %d head %d row %d: %zu pieces", std::get<0>(row), std::get<1>(row), std::get<2>(row),
                ranges.size());
  }
}

/// Under causal patterns the long rows are the last queries and the first keys. Where rows are uneven, pieces begin
/// with those, and the short ones of all problems come in the end, so that all blocks of threads end at a time.
void check_order(const Call& call, const device::Blocks& blocks, bool key_major) {
  const collective::Geometry geometry = device::make_geometry(call.in, call.layout, key_major, !key_major);
  const collective::Schedule schedule =
      device::make_schedule(call.in, call.layout, call.hints, geometry, blocks, false);
  const int problems = schedule.problems.divisor, whole = schedule.whole_tiles;
  if (!call.hints.uneven || problems * whole == 0) return;
  const auto length_of = [&](int index) {  // the higher, the longer
    const int tile = collective::item_of(schedule, index).tile;
    return key_major ? whole - 1 - tile : tile;
  };
  check::that(length_of(0) == whole - 1, "the first piece is not the longest");
  const int together = std::min(problems * (whole / 4), 4 * blocks.running);
  for (int index = schedule.items - together; index < schedule.items; ++index)
    check::that(length_of(index) == (schedule.items - 1 - index) / problems, "piece %d of %d is out of order", index,
                schedule.items);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (int n = 0; n < 3000; ++n) {
    const Call call = random_call(random);
    const device::Blocks blocks{64 * (1 + int(random() % 3)), 32 * (2 + int(random() % 3)), 1 + int(random() % 300)};
    const bool merges = random() % 4 != 0;
    for (const bool key_major : {false, true}) {
      check_call(call, blocks, merges, key_major);
      check_order(call, blocks, key_major);
    }
  }
  return check::summary("schedule");
}
