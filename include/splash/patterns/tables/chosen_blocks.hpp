// Blocks chosen by the content of queries and keys: means of blocks, which scores may be chosen, and the choice.
#pragma once

#include "splash/core/half.hpp"
#include "splash/core/math.hpp"
#include "splash/patterns/tables/pack.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns::tables {

/// Where the queries of a batch entry stand among the keys. Blocks of `rows` queries and of `columns` keys.
struct ChosenProblem {
  int64_t batches, heads, kv_heads, queries, keys;
  int64_t rows, columns;
  bool share_group;  ///< one list for all query heads of a key/value head
  int64_t q_start, k_start;
  const int32_t *lengths, *kv_lengths;

  SPLASH_HD int64_t row_blocks() const { return (queries + rows - 1) / rows; }
  SPLASH_HD int64_t column_blocks() const { return (keys + columns - 1) / columns; }
  SPLASH_HD int64_t lists() const { return share_group ? kv_heads : heads; }

  /// Queries and keys of an entry that are no padding.
  SPLASH_HD int64_t own_queries(int64_t batch) const {
    return lengths && !kv_lengths ? clamped(lengths[batch] - q_start, queries) : queries;
  }
  SPLASH_HD int64_t own_keys(int64_t batch) const {
    if (kv_lengths) return clamped(kv_lengths[batch], keys);
    return lengths ? clamped(lengths[batch] - k_start, keys) : keys;
  }

  /// The key blocks from first to end - 1 are a query block's own, those before them earlier ones.
  struct Own {
    int64_t first, end;
  };
  SPLASH_HD Own own_blocks(int64_t batch, int64_t row_block) const {
    const int64_t offset = kv_lengths ? own_keys(batch) - queries : q_start - k_start;
    const int64_t begin = row_block * rows, mine = own_queries(batch);
    const int64_t last = (begin + rows < mine ? begin + rows : mine) - 1, all = column_blocks();
    Own own{floored(begin + offset), floored(last + offset) + 1};
    own.first = own.first < 0 ? 0 : own.first < all ? own.first : all;
    own.end = own.end < own.first ? own.first : own.end < all ? own.end : all;
    return own;
  }

 private:
  SPLASH_HD static int64_t clamped(int64_t count, int64_t high) { return count < 0 ? 0 : count < high ? count : high; }
  SPLASH_HD int64_t floored(int64_t position) const {
    return position < 0 ? -((columns - 1 - position) / columns) : position / columns;
  }
};

/// Means over blocks of the rows that are no padding: (batches, heads, length, dim) to (batches, means, blocks, dim),
/// of which each is the sum over `group` heads.
template <class Element, class Wide>
struct BlockMeans {
  ChosenProblem problem;
  bool of_keys;
  const Element* data;
  int64_t stride[4];
  int64_t means, group, dim;
  Wide* out;

  SPLASH_HD int64_t block() const { return of_keys ? problem.columns : problem.rows; }
  SPLASH_HD int64_t blocks() const { return of_keys ? problem.column_blocks() : problem.row_blocks(); }
  SPLASH_HD int64_t count() const { return problem.batches * means * blocks() * dim; }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t d = n % dim, first = n / dim % blocks() * block(), mean = n / dim / blocks() % means;
    const int64_t batch = n / dim / blocks() / means;
    const int64_t length = of_keys ? problem.own_keys(batch) : problem.own_queries(batch);
    const int64_t left = length - first, rows = left < 0 ? 0 : left < block() ? left : block();
    Wide total = 0;
    for (int64_t head = 0; head < group; ++head) {
      const Element* row =
          data + batch * stride[0] + (mean * group + head) * stride[1] + first * stride[2] + d * stride[3];
      Wide sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += Wide(row[r * stride[2]]);
      total += sum / Wide(rows < 1 ? 1 : rows);
    }
    out[n] = total;
  }
};

/// Scores (batches, lists, row blocks, column blocks) of blocks that are not earlier ones become -inf, and NaN does.
template <class Wide>
struct EarlierScores {
  ChosenProblem problem;
  Wide* scores;

  SPLASH_HD int64_t count() const {
    return problem.batches * problem.lists() * problem.row_blocks() * problem.column_blocks();
  }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t columns = problem.column_blocks(), rows = problem.row_blocks(), line = n / columns;
    const int64_t before = problem.own_blocks(line / rows / problem.lists(), line % rows).first;
    if (n % columns >= before || scores[n] != scores[n]) scores[n] = -math::kInfinity<Wide>;
  }
};

/// The mask, a line at a time: own blocks, and the best earlier ones, of equal ones the first.
template <class Wide>
struct ChooseBlocks {
  ChosenProblem problem;
  int64_t top, most;    ///< most: how many of the largest scores are known, all that count
  const Wide* scores;   ///< of EarlierScores
  const Wide* largest;  ///< (batches, lists, row blocks, most), falling
  uint8_t* mask;        ///< (batches, heads, row blocks, column blocks)

  SPLASH_HD int64_t count() const { return problem.batches * problem.heads * problem.row_blocks(); }

  SPLASH_HD void operator()(int64_t n) const {
    const int64_t columns = problem.column_blocks(), rows = problem.row_blocks(), head = n / rows % problem.heads;
    const int64_t batch = n / rows / problem.heads, list = problem.share_group ? head / group() : head;
    const int64_t line = (batch * problem.lists() + list) * rows + n % rows;
    const ChosenProblem::Own own = problem.own_blocks(batch, n % rows);
    const int64_t wanted = top - (own.end - own.first);
    const Wide* best = largest + line * most;
    Wide least = 0;
    int64_t equal = 0;  // of the scores that equal the least one that is wanted: how many are
    if (wanted > 0) {
      const int64_t last = wanted < most ? wanted - 1 : most - 1;
      least = best[last];
      int64_t above = 0;
      while (above < last && best[above] > least) ++above;
      equal = wanted - above;
    }
    for (int64_t column = 0; column < columns; ++column) {
      bool kept = column >= own.first && column < own.end;
      if (wanted > 0 && column < own.first) {
        const Wide score = scores[line * columns + column];
        kept = score > least || (score == least && equal-- > 0);
      }
      mask[n * columns + column] = kept;
    }
  }

 private:
  SPLASH_HD int64_t group() const { return problem.heads / problem.kv_heads; }
};

}  // namespace patterns::tables
SPLASH_NAMESPACE_END
