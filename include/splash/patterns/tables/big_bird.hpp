// BigBird's tables, which big_bird.hpp describes: what it keeps by rows, and the same by columns. Made on the device,
// where lengths are known.
#pragma once

#include "splash/patterns/big_bird_draw.hpp"
#include "splash/patterns/tables/pack.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns::tables {

/// The pattern and the problem that it meets. Without `length` (-1) every sequence has its own.
struct BigBirdProblem {
  int64_t block = 1, window = 1, first = 0, last = 0, random = 0, seed = 0, length = -1;
  bool causal = false;
  int64_t batches = 1, heads = 1;  ///< of the tables
  int64_t queries = 0, keys = 0;   ///< of one sequence, packed ones have at most these
  int64_t q_start = 0, k_start = 0;
  const int32_t *lengths = nullptr, *kv_lengths = nullptr;
  /// (sequences + 1,); their tensors have `rows` and `columns` tokens.
  const int32_t *cu_queries = nullptr, *cu_keys = nullptr;
  int64_t sequences = 0, rows = 0, columns = 0;

  SPLASH_HD int64_t blocks(int64_t positions) const { return (positions + block - 1) / block; }
  /// The block of the first position that is not negative.
  SPLASH_HD int64_t origin(int64_t start) const { return start > 0 ? start / block : 0; }
  /// Blocks that `count` positions from `start` on lie in; those before 0 count as 0.
  SPLASH_HD int64_t blocks_from(int64_t start, int64_t count) const {
    return count > 0 ? origin(start + count - 1) - origin(start) + 1 : 0;
  }
  /// Blocks that `count` positions lie in at most, wherever they start.
  SPLASH_HD int64_t most_blocks(int64_t count) const { return count > 0 ? (count + 2 * block - 2) / block : 0; }

  SPLASH_HD int64_t row_lines() const {
    if (cu_queries) return rows / block + 2 * sequences;
    return kv_lengths ? most_blocks(queries) : blocks_from(q_start, queries);
  }
  SPLASH_HD int64_t column_lines() const {
    return cu_queries ? columns / block + 2 * sequences : blocks_from(k_start, keys);
  }
  /// Bits of a line of the table by rows, and of the one by columns.
  SPLASH_HD int64_t row_bits() const {
    return cu_queries ? blocks_from(k_start, columns < keys ? columns : keys) : column_lines();
  }
  SPLASH_HD int64_t column_bits() const {
    return cu_queries ? most_blocks(rows < queries ? rows : queries) : row_lines();
  }
  /// Blocks that no sequence has more of.
  SPLASH_HD int64_t blocks_at_most() const {
    if (length >= 0) return blocks(length);
    const bool whole = !lengths || (k_start == 0 && q_start == 0);
    const int64_t end = k_start + keys;
    return blocks(whole ? (end > 0 ? end : 0) : kMaxPosition);
  }
  /// Draws of a row at most.
  SPLASH_HD int64_t draws() const { return random < blocks_at_most() ? random : blocks_at_most(); }
};

/// One sequence of the problem: a batch entry, or a packed one with its first lines of both tables.
struct BigBirdSequence {
  int64_t own;                    ///< its number of blocks
  int64_t first_row, row_count;   ///< the block of its first row, and how many blocks its rows lie in
  int64_t first_column, columns;  ///< the same of its columns
  int64_t row_line, column_line;

  SPLASH_HD static BigBirdSequence of_entry(const BigBirdProblem& p, int64_t batch) {
    int64_t end = p.k_start + p.keys, q_start = p.q_start;
    if (p.kv_lengths) {
      const int64_t held = clamped(p.kv_lengths[batch], p.keys);
      end = p.k_start + held;
      q_start = end - p.queries;
    } else if (p.lengths) {
      end = p.lengths[batch];
    }
    return {own_blocks(p, end), p.origin(q_start), p.row_lines(), p.origin(p.k_start), p.column_lines(), 0, 0};
  }

  /// The packed sequence that a line of one of the tables belongs to, if it does.
  SPLASH_HD static BigBirdSequence of_line(const BigBirdProblem& p, int64_t line, bool by_column) {
    const int32_t* ends = by_column ? p.cu_keys : p.cu_queries;
    const int64_t total = by_column ? p.columns : p.rows;
    const auto first_line = [&](int64_t s) { return clamped(ends[s], total) / p.block + 2 * s; };
    int64_t low = 0, high = p.sequences;  // the last sequence that begins up to the line
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (first_line(middle) <= line ? low : high) = middle;
    }
    const int64_t row = clamped(p.cu_queries[low], p.rows), column = clamped(p.cu_keys[low], p.columns);
    const int64_t rows = clamped(clamped(p.cu_queries[low + 1], p.rows) - row, p.queries);
    const int64_t columns = clamped(clamped(p.cu_keys[low + 1], p.columns) - column, p.keys);
    const int64_t q_start = p.k_start + columns - rows;
    return {
        own_blocks(p, p.k_start + columns), p.origin(q_start),       p.blocks_from(q_start, rows), p.origin(p.k_start),
        p.blocks_from(p.k_start, columns),  row / p.block + 2 * low, column / p.block + 2 * low};
  }

 private:
  SPLASH_HD static int64_t clamped(int64_t count, int64_t high) { return count < 0 ? 0 : count < high ? count : high; }
  SPLASH_HD static int64_t own_blocks(const BigBirdProblem& p, int64_t end) {
    return p.blocks(p.length >= 0 ? p.length : end > 0 ? end : 0);
  }
};

/// A line of the table by rows at a time.
struct BigBirdRows {
  BigBirdProblem problem;
  int32_t* drawn;   ///< (batches, heads, lines, draws): what a line has drawn so far
  uint32_t* words;  ///< (batches, heads, lines, words)

  SPLASH_HD int64_t count() const { return problem.batches * problem.heads * problem.row_lines(); }

  SPLASH_HD void operator()(int64_t n) const {
    const BigBirdProblem& p = problem;
    const int64_t lines = p.row_lines(), bits = p.row_bits(), line = n % lines;
    const BigBirdSequence own =
        p.cu_queries ? BigBirdSequence::of_line(p, line, false) : BigBirdSequence::of_entry(p, n / lines / p.heads);
    uint32_t* out = words + n * words_of(bits);
    for (int64_t word = 0; word < words_of(bits); ++word) out[word] = 0;
    const int64_t at = line - own.row_line, row = own.first_row + at;
    if (at < 0 || at >= own.row_count || row >= own.own) return;

    // Three ranges, each from where the one before it ends: of first blocks, or all; of neighbours; of last blocks.
    const int64_t end = p.causal && row < own.own ? row + 1 : own.own, half = p.window / 2;
    const bool whole = row < p.first || row >= own.own - p.last;
    const int64_t head = whole || end < p.first ? end : p.first;
    const int64_t near = within(row - half, head, end), after = within(row + half + 1, near, end);
    const int64_t tail = within(own.own - p.last, after, end);
    const auto set = [&](int64_t column) {
      const int64_t bit = column - own.first_column;
      if (bit >= 0 && bit < bits) out[bit / 32] |= 1u << bit % 32;
    };
    fill(out, 0 - own.first_column, head - own.first_column, bits);
    fill(out, near - own.first_column, after - own.first_column, bits);
    fill(out, tail - own.first_column, end - own.first_column, bits);

    // Floyd's sampling without replacement: a candidate that is taken already stands for the last one so far.
    const int64_t candidates = (near - head) + (tail - after), draws = candidates < p.random ? candidates : p.random;
    const uint32_t of_row = DrawHash{uint64_t(p.seed)}.of_row(int(n / lines % p.heads), int(row));
    int32_t* taken = drawn + n * p.draws();
    for (int64_t t = 0; t < draws; ++t) {
      const int32_t range = int32_t(candidates - draws + t);
      int32_t candidate = DrawHash::draw(of_row, int(t), range + 1);
      for (int64_t earlier = 0; earlier < t; ++earlier)
        if (taken[earlier] == candidate) {
          candidate = range;
          break;
        }
      taken[t] = candidate;
      set(head + candidate < near ? head + candidate : head + candidate + (after - near));
    }
  }

 private:
  SPLASH_HD static int64_t within(int64_t x, int64_t low, int64_t high) { return x > high ? high : x < low ? low : x; }

  SPLASH_HD static void fill(uint32_t* words, int64_t begin, int64_t end, int64_t bits) {
    begin = begin < 0 ? 0 : begin;
    end = end < bits ? end : bits;
    if (begin >= end) return;
    for (int64_t word = begin / 32; word <= (end - 1) / 32; ++word)
      words[word] |= word_between(int(begin - 32 * word > 0 ? begin - 32 * word : 0),
                                  int(end - 1 - 32 * word < 31 ? end - 1 - 32 * word : 31));
  }
};

/// A word of the table by columns at a time, from the one by rows.
struct BigBirdColumns {
  BigBirdProblem problem;
  const uint32_t* by_row;
  uint32_t* words;  ///< (batches, heads, lines, words)

  SPLASH_HD int64_t count() const {
    return problem.batches * problem.heads * problem.column_lines() * words_of(problem.column_bits());
  }

  SPLASH_HD void operator()(int64_t n) const {
    const BigBirdProblem& p = problem;
    const int64_t of_line = words_of(p.column_bits()), word = n % of_line, lines = p.column_lines();
    const int64_t line = n / of_line % lines, matrix = n / of_line / lines;
    const BigBirdSequence own =
        p.cu_queries ? BigBirdSequence::of_line(p, line, true) : BigBirdSequence::of_entry(p, matrix / p.heads);
    const int64_t column = line - own.column_line, row_words = words_of(p.row_bits());
    uint32_t packed = 0;
    if (column >= 0 && column < own.columns)
      for (int64_t row = 32 * word; row < 32 * word + 32 && row < own.row_count; ++row) {
        const uint32_t* of_row = by_row + (matrix * p.row_lines() + own.row_line + row) * row_words;
        packed |= (of_row[column / 32] >> column % 32 & 1u) << (row - 32 * word);
      }
    words[n] = packed;
  }
};

}  // namespace patterns::tables
SPLASH_NAMESPACE_END
