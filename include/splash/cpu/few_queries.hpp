// Few queries against many keys (a token, or a few, that a decoder adds): keys and values are read once, and that is
// what it costs. The query heads that share them are rows of one problem.
//
// A group of rows goes through three stages: all of its scores, each row's weights, the outputs. Scores stay where they
// are between the stages, so a normalizer sweeps over whole rows of them, as often as it likes, and no partial softmax
// needs merging. Outer stages consist of chunks of keys, whose outputs are summed in order: results do not depend on
// how many threads there are. Lanes are keys where scores are masked and weighed, and lie along D where they are
// formed.
#pragma once

#include "splash/cpu/bias.hpp"
#include "splash/cpu/parallel.hpp"
#include "splash/cpu/problem.hpp"
#include "splash/cpu/row_products.hpp"
#include "splash/normalizers/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// Queries of a head that are few: vectors of queries would be mostly empty.
inline constexpr int kFewQueries = 8;

/// Query heads of one batch entry that share keys, and the tiles of columns in which any of them may keep any.
struct RowGroup {
  static constexpr int kRows = 32;        ///< at most, where a head alone does not have more
  static constexpr int kChunkTiles = 16;  ///< at least
  static constexpr int64_t kChunks = 64;  ///< at most

  int batch, head, heads;
  int rows;  ///< of a head
  int first_tile, tiles;
  int64_t first_row, first_chunk, offset;  ///< what the groups before it have; bytes of memory

  int all_rows() const { return heads * rows; }
  int chunk_tiles() const {
    const int least = int((tiles + kChunks - 1) / kChunks);
    return least > kChunkTiles ? least : kChunkTiles;
  }
  int chunks() const { return (tiles + chunk_tiles() - 1) / chunk_tiles(); }
};

/// All that does not ask what the normalizer is. InOrder: as dot_rows has it.
template <class Pattern, class Real, class Element, bool InOrder>
class FewQueryTiles {
  using Value = Simd<Real>;
  using Walk = patterns::TileWalk<Pattern>;
  static constexpr int W = Value::kLanes;

 public:
  struct Bias {
    const Real* data;
    int count;
  };

  FewQueryTiles(const Pattern& pattern, const Problem<Element>& problem, const Heads<Element>& out)
      : pattern_(pattern), problem_(problem), out_(out) {
    const int rows = clamp_to(problem.num_queries, 1, kFewQueries);
    parts_ = (problem.group() * rows + RowGroup::kRows - 1) / RowGroup::kRows;
    parts_ = clamp_to(parts_, 1, problem.group());
  }

  int64_t groups() const { return int64_t(problem_.batch) * problem_.kv_heads * parts_; }

  /// All but what the groups before it have.
  RowGroup group(int64_t n) const {
    const int part = int(n % parts_), size = problem_.group();
    const int64_t owner = n / parts_;
    RowGroup group{};
    group.batch = int(owner / problem_.kv_heads);
    const int first = part * size / parts_;
    group.head = int(owner % problem_.kv_heads) * size + first;
    group.heads = (part + 1) * size / parts_ - first;
    const Frame frame = problem_.frame(group.batch, group.head);
    group.rows = problem_.rows(frame);
    if (group.rows > kFewQueries) group.rows = 0;
    const int rows = clamp_to(frame.num_queries, 0, group.rows), end = (frame.num_keys + kTile - 1) / kTile;
    group.first_tile = end;
    for (int h = 0; h < group.heads && rows > 0 && end > 0; ++h) {
      const int next = pattern_.next_column(problem_.frame(group.batch, group.head + h), 0, rows, 0) / kTile;
      if (next < group.first_tile) group.first_tile = next;
    }
    group.tiles = end - group.first_tile;
    return group;
  }

  /// What a head keeps of a tile: the columns that some row keeps, and whether all rows keep them all.
  struct Kept {
    uint64_t columns;
    bool all;
    bool operator==(const Kept& other) const { return columns == other.columns; }
  };

  /// A group's memory.
  struct Memory {
    Kept* kept;   ///< [tile][head]
    Real* panel;  ///< [row][tile][column]: scores, then weights, of tiles of which the row's head keeps anything
    int64_t stride;
    Real *queries, *factors, *sums, *tile;  ///< sums: [chunk][row][D]
    int64_t bytes;

    Memory(unsigned char* data, const RowGroup& group, int width) {
      Arena arena(data);
      const int64_t rows = group.all_rows(), row = vectors_of<Real>(width) * W;
      // The last line keeps rows from falling on the same places of a cache.
      stride = int64_t(group.tiles) * kTile + kAlignment / int64_t(sizeof(Real));
      kept = arena.take<Kept>(int64_t(group.tiles) * group.heads);
      panel = arena.take<Real>(rows * stride);
      queries = arena.take<Real>(rows * row);
      factors = arena.take<Real>(rows);
      sums = arena.take<Real>(rows * row * (group.chunks() > 1 ? group.chunks() : 1));
      bytes = arena.bytes();
    }
    Matrix<Real> scores(int tile, int row) const { return {panel + row * stride + int64_t(tile) * kTile, stride}; }
  };

  Memory memory(unsigned char* data, const RowGroup& group) const { return Memory(data, group, problem_.width); }

  void load_queries(const RowGroup& group, const Memory& memory) const {
    const Value sign(Real(problem_.scale.sign));
    Real* to = memory.queries;
    for (int h = 0; h < group.heads; ++h) {
      const auto queries = problem_.at_row(problem_.q, problem_.frame(group.batch, group.head + h), 0);
      for (int r = 0; r < group.rows; ++r) {
        const Element* from = queries.data + r * queries.stride;
        int d = 0;
        for (; d + W <= problem_.width; d += W, to += W) (load_vector<Real>(from + d) * sign).store(to);
        if (d < problem_.width) (load_rest<Real>(from, problem_.width) * sign).store(to), to += W;
      }
    }
  }

  /// Masked scores of a chunk. `bias(head)` is added to them.
  template <class BiasOf>
  void score(const RowGroup& group, const Memory& memory, int chunk, const BiasOf& bias) const {
    const int begin = chunk * group.chunk_tiles(), end = least(begin + group.chunk_tiles(), group.tiles);
    for (int h = 0; h < group.heads; ++h) find_kept(group, memory, h, begin, end);
    for (int tile = begin; tile < end; ++tile) {
      each_run(group, memory, tile,
               [&](int first, int last, uint64_t columns) { score_run(group, memory, tile, first, last, columns); });
      for (int h = 0; h < group.heads; ++h) {
        const Kept& kept = memory.kept[int64_t(tile) * group.heads + h];
        if (kept.columns) finish_scores(group, memory, tile, h, kept.all, bias(group.head + h));
      }
    }
  }

  /// sums of the chunk = weights V.
  void weigh(const RowGroup& group, const Memory& memory, int chunk) const {
    const int begin = chunk * group.chunk_tiles(), end = least(begin + group.chunk_tiles(), group.tiles);
    const int64_t row = row_size();
    Real* sums = memory.sums + chunk * group.all_rows() * row;
    __builtin_memset(sums, 0, sizeof(Real) * std::size_t(group.all_rows() * row));
    for (int tile = begin; tile < end; ++tile)
      each_run(group, memory, tile, [&](int first, int last, uint64_t columns) {
        uint8_t list[kTile];
        const ListedRows<Element> values{rows_of(problem_.v, group, tile), list, list_bits(columns, list)};
        const int r = first * group.rows;
        weigh_rows<Real, Element>(values, memory.scores(tile, r), (last - first) * group.rows, problem_.width,
                                  {sums + r * row, row});
      });
  }

  /// The rows of the output.
  void store(const RowGroup& group, const Memory& memory) const {
    const int64_t row = row_size(), plane = group.all_rows() * row;
    for (int h = 0; h < group.heads; ++h) {
      const Frame frame = problem_.frame(group.batch, group.head + h);
      const auto out = problem_.at_row(out_, frame, 0);
      for (int r = 0; r < group.rows; ++r) {
        const int64_t n = int64_t(h) * group.rows + r;
        Real* sum = memory.sums + n * row;
        if (r >= frame.num_queries || group.tiles == 0)
          __builtin_memset(sum, 0, sizeof(Real) * std::size_t(row));
        else
          for (int chunk = 1; chunk < group.chunks(); ++chunk)
            for (int64_t d = 0; d < row; d += W)
              (Value::load(sum + d) + Value::load(sum + chunk * plane + d)).store(sum + d);
        store_row(sum, problem_.width, memory.factors[n], out.data + r * out.stride);
      }
    }
  }

  /// f(first vector, vectors, first column) for the scores of each run of tiles that the head keeps anything of.
  template <class F>
  SPLASH_HD void each_part(const RowGroup& group, const Memory& memory, const Frame& frame, int row, const F& f) const {
    const int h = frame.head - group.head;
    const Kept* kept = memory.kept + h;
    for (int tile = 0; tile < group.tiles; ++tile) {
      if (!kept[int64_t(tile) * group.heads].columns) continue;
      const int first = tile;
      while (tile + 1 < group.tiles && kept[int64_t(tile + 1) * group.heads].columns) ++tile;
      const int begin = (group.first_tile + first) * kTile, end = (group.first_tile + tile + 1) * kTile;
      f(memory.scores(first, h * group.rows + row).data, (least(end, frame.num_keys) - begin + W - 1) / W, begin);
    }
  }

 private:
  static int least(int a, int b) { return a < b ? a : b; }
  int64_t row_size() const { return int64_t(vectors_of<Real>(problem_.width)) * W; }

  Box box(const RowGroup& group, const Frame& frame, int tile) const {
    const int begin = (group.first_tile + tile) * kTile;
    return {0, least(group.rows, frame.num_queries), begin, least(begin + kTile, frame.num_keys)};
  }
  Matrix<const Element> rows_of(const Heads<Element>& tensor, const RowGroup& group, int tile) const {
    const auto rows =
        problem_.at_column(tensor, problem_.frame(group.batch, group.head), (group.first_tile + tile) * kTile);
    return {rows.data, rows.stride};
  }

  void find_kept(const RowGroup& group, const Memory& memory, int h, int begin, int end) const {
    const Frame frame = problem_.frame(group.batch, group.head + h);
    const auto at = [&](int tile) -> Kept& { return memory.kept[int64_t(tile) * group.heads + h]; };
    const auto whole = [](const Box& tile) { return patterns::bits_to(tile.column_end - tile.column_begin - 1); };
    Box all = box(group, frame, begin);
    all.column_end = box(group, frame, end - 1).column_end;
    const bool full = pattern_.classify(frame, all) == TileState::full;
    for (int tile = begin; tile < end; ++tile) at(tile) = {full ? whole(box(group, frame, tile)) : 0, full};
    if (full) return;
    for (Walk walk(pattern_, frame, 0, all.row_end, all.column_end, kTile, all.column_begin); !walk.done();
         walk.advance()) {
      Kept& kept = at(walk.tile() - group.first_tile);
      kept.all = walk.state() == TileState::full;
      kept.columns = kept.all ? whole(walk.box()) : kept_columns(pattern_, frame, walk.box());
    }
  }

  /// f(first head, end, columns) for neighbours that keep the same columns.
  template <class F>
  SPLASH_HD void each_run(const RowGroup& group, const Memory& memory, int tile, const F& f) const {
    const Kept* kept = memory.kept + int64_t(tile) * group.heads;
    for (int h = 0; h < group.heads;) {
      const int first = h;
      while (++h < group.heads && kept[h] == kept[first]) {
      }
      if (kept[first].columns) f(first, h, kept[first].columns);
    }
  }

  /// The columns whose bits are set, and how many they are.
  static int list_bits(uint64_t bits, uint8_t* list) {
    int count = 0;
    for (; bits; bits &= bits - 1) list[count++] = uint8_t(__builtin_ctzll(bits));
    return count;
  }

  void score_run(const RowGroup& group, const Memory& memory, int tile, int first, int last, uint64_t columns) const {
    uint8_t list[kTile];
    const ListedRows<Element> keys{rows_of(problem_.k, group, tile), list, list_bits(columns, list)};
    const int r = first * group.rows, rows = (last - first) * group.rows;
    const Matrix<const Real> queries{memory.queries + r * row_size(), row_size()};
    const Matrix<Real> scores = memory.scores(tile, r);
    if (keys.list[keys.count - 1] + 1 == keys.count)
      return dot_rows<Real, Element, InOrder>(keys, queries, rows, problem_.width, scores);
    for (int n = 0; n < rows; ++n) {
      Real packed[kTile];
      dot_rows<Real, Element, InOrder>(keys, {queries.data + n * queries.stride, queries.stride}, 1, problem_.width,
                                       {packed, kTile});
      Real* to = scores.data + n * scores.stride;
      for (int c = 0; c < keys.count; ++c) to[list[c]] = packed[c];
    }
  }

  /// The bias, and -inf for what is not kept, in the tile of one head.
  void finish_scores(const RowGroup& group, const Memory& memory, int tile, int h, bool all, const Bias& bias) const {
    const Frame frame = problem_.frame(group.batch, group.head + h);
    const Box at = box(group, frame, tile);
    const int rows = at.row_end, columns = at.column_end - at.column_begin;
    const Matrix<Real> scores = memory.scores(tile, h * group.rows);
    if (bias.count > 0)
      add_bias<Lanes::keys>(bias.data, bias.count, Real(1 / problem_.scale.magnitude), frame, at, scores);
    if (all && columns % W == 0) return;
    TileBits kept;
    if (all)
      __builtin_memset(kept, 0xff, sizeof kept);
    else
      tile_bits(pattern_, frame, at, kept);
    for (int r = 0; r < rows; ++r) kept[r] &= patterns::bits_to(columns - 1);
    mask_dropped<Real>(scores, rows, round_up(columns, W), kept);
  }

  const Pattern& pattern_;
  const Problem<Element>& problem_;
  const Heads<Element>& out_;
  int parts_;  ///< groups that query heads with the same keys are dealt out to
};

template <class Pattern, class Normalizer, class Real, class Element>
class FewQueries {
  using Value = Simd<Real>;
  using Row = typename Normalizer::template Rows<Value, 1>;
  /// Those that look for the largest scores, or a threshold, meet the same ones in the backward.
  using Tiles = FewQueryTiles<Pattern, Real, Element, Normalizer::kScoreSweeps>;
  using Memory = typename Tiles::Memory;
  using Scores = Fragment<Real, Lanes::keys>;
  static constexpr int W = Value::kLanes;

 public:
  FewQueries(const Pattern& pattern, const Problem<Element>& problem, const Normalizer& normalizer,
             const Heads<Element>& out, Real* statistic, Real* saved)
      : tiles_(pattern, problem, out),
        problem_(problem),
        normalizer_(normalizer),
        statistic_(statistic),
        saved_(saved) {}

  Status run(const Parallel& parallel) const {
    const int64_t count = tiles_.groups();
    const Buffer plan((count + 1) * int64_t(sizeof(RowGroup)));
    RowGroup* groups = reinterpret_cast<RowGroup*>(plan.data());
    if (!groups) return out_of_memory();
    for_each_task(parallel, worker_count(parallel, count / 64), count,
                  [&](int, int64_t n) { groups[n] = tiles_.group(n); });
    RowGroup all{};  // ends as a group after the last one
    int64_t most = 0, most_work = 0, work = 0;
    for (int64_t n = 0; n < count; ++n) {
      RowGroup& group = groups[n];
      group.first_row = all.first_row, group.first_chunk = all.first_chunk, group.offset = all.offset;
      const int64_t bytes = tiles_.memory(nullptr, group).bytes, own = int64_t(group.tiles) * group.all_rows();
      all.first_row += group.all_rows();
      all.first_chunk += group.chunks();
      all.offset += bytes;
      work += own;
      if (bytes > most) most = bytes;
      if (own > most_work) most_work = own;
    }
    if (all.first_row == 0) return {};
    groups[count] = all;
    // Threads share groups where whole ones would leave some of them idle.
    const int threads = worker_count(parallel, all.first_chunk);
    return threads > 1 && most_work * 4 * threads > work ? together(parallel, groups, count)
                                                         : one_by_one(parallel, groups, count, most);
  }

 private:
  Status one_by_one(const Parallel& parallel, const RowGroup* groups, int64_t count, int64_t bytes) const {
    const int workers = worker_count(parallel, count);
    const Buffer buffer(bytes * workers);
    if (!buffer.data()) return out_of_memory();
    for_each_task(parallel, workers, count, [&](int worker, int64_t n) {
      const RowGroup& group = groups[n];
      const Memory memory = tiles_.memory(buffer.data() + worker * bytes, group);
      tiles_.load_queries(group, memory);
      for (int chunk = 0; chunk < group.chunks(); ++chunk) score(group, memory, chunk);
      for (int r = 0; r < group.all_rows(); ++r) normalize(group, memory, r);
      for (int chunk = 0; chunk < group.chunks(); ++chunk) tiles_.weigh(group, memory, chunk);
      tiles_.store(group, memory);
    });
    return {};
  }

  Status together(const Parallel& parallel, const RowGroup* groups, int64_t count) const {
    const RowGroup& all = groups[count];
    const Buffer buffer(all.offset);
    if (!buffer.data()) return out_of_memory();
    const auto memory = [&](const RowGroup& group) { return tiles_.memory(buffer.data() + group.offset, group); };
    const auto stage = [&](int64_t tasks, auto first, const auto& body) {
      for_each_task(parallel, worker_count(parallel, tasks), tasks, [&](int, int64_t task) {
        const RowGroup& group = *owner(groups, count, first, task);
        body(group, memory(group), int(task - group.*first));
      });
    };
    for (int64_t n = 0; n < count; ++n) tiles_.load_queries(groups[n], memory(groups[n]));
    stage(all.first_chunk, &RowGroup::first_chunk,
          [&](const RowGroup& group, const Memory& own, int chunk) { score(group, own, chunk); });
    stage(all.first_row, &RowGroup::first_row,
          [&](const RowGroup& group, const Memory& own, int row) { normalize(group, own, row); });
    stage(all.first_chunk, &RowGroup::first_chunk,
          [&](const RowGroup& group, const Memory& own, int chunk) { tiles_.weigh(group, own, chunk); });
    for_each_task(parallel, worker_count(parallel, count), count,
                  [&](int, int64_t n) { tiles_.store(groups[n], memory(groups[n])); });
    return {};
  }

  /// The last group that begins at `task` or before it: the ones before that begin there, too, are empty.
  static const RowGroup* owner(const RowGroup* groups, int64_t count, int64_t RowGroup::* first, int64_t task) {
    const RowGroup* at = groups;
    for (int64_t left = count; left > 1;) {
      const int64_t half = left / 2;
      if (at[half].*first <= task) at += half;
      left -= half;
    }
    return at;
  }

  void score(const RowGroup& group, const Memory& memory, int chunk) const {
    tiles_.score(group, memory, chunk, [&](int head) -> typename Tiles::Bias {
      if constexpr (normalizers::kHasBias<Normalizer>) {
        const Normalizer n = normalizers::of_head(normalizer_, head);
        return {n.bias(), n.bias_count()};
      } else {
        return {};
      }
    });
  }

  /// A row of scores becomes weights.
  [[gnu::noinline]] void normalize(const RowGroup& group, const Memory& memory, int row) const {
    const int head = group.head + row / group.rows, r = row % group.rows;
    const Frame frame = problem_.frame(group.batch, head);
    const Normalizer normalizer = normalizers::of_head(normalizer_, head);
    Row state;
    normalizers::place(normalizer, state, 0, Value(Real(frame.i(r))));
    const auto sweep = [&](const auto& body) {
      if (r >= frame.num_queries) return;  // padding: a row that keeps nothing
      tiles_.each_part(group, memory, frame, r, [&](Real* data, int vectors, int column) {
        Scores part{data, W, vectors, column};
        body(part);
      });
    };
    if constexpr (Normalizer::kScoreSweeps) do {
        sweep([&](Scores& part) { state.observe(normalizer, part); });
      } while (state.refine(normalizer, LaneIsKey{}));
    // All parts first: nothing is there that a later one might rescale.
    if constexpr (Normalizer::kRescales)
      sweep([&](Scores& part) {
        Value rescale[1];
        state.meet(normalizer, part, rescale, LaneIsKey{});
      });
    sweep([&](Scores& part) { state.weigh(normalizer, part); });
    state.finish(normalizer, LaneIsKey{});
    memory.factors[row] = state.output_factor(normalizer, 0).lanes[0];
    const int64_t flat = problem_.flat(frame, r);
    statistic_[flat] = state.statistic(normalizer, 0).lanes[0];
    for (int s = 0; s < Normalizer::kSaved; ++s) saved_[s * problem_.plane() + flat] = state.saved(0, s).lanes[0];
  }

  Tiles tiles_;
  const Problem<Element>& problem_;
  const Normalizer& normalizer_;
  Real *statistic_, *saved_;
};

}  // namespace cpu
SPLASH_NAMESPACE_END
