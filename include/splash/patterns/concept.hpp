// What a pattern must answer, and nothing more.
#pragma once

#include <concepts>
#include <initializer_list>

#include "splash/core/frame.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

/// WHICH scores exist. A pattern is plain data, copied to the device as it is.
/// Rows and columns in the arguments are inside the frame, ends of ranges at most one past it.
///   keep(frame, row, column)            is this score kept?
///   classify(frame, box)                are all, some or none kept? `partial` is always a correct answer.
///   next_column(frame, r0, r1, column)  a column c >= `column` such that rows [r0, r1) keep nothing in [column, c);
///                                       kEnd where nothing is left.
///   next_row(frame, c0, c1, row)        the same with rows and columns exchanged.
template <class P>
concept Pattern = requires(const P pattern, const Frame& frame, const Box& box, int n) {
  { pattern.keep(frame, n, n) } -> std::same_as<bool>;
  { pattern.classify(frame, box) } -> std::same_as<TileState>;
  { pattern.next_column(frame, n, n, n) } -> std::same_as<int>;
  { pattern.next_row(frame, n, n, n) } -> std::same_as<int>;
};

/// Optional: 64 answers of keep() at once, with which tiles are masked.
///   kept_bits(frame, row, column)       bit c is keep(frame, row, column + c) for every column + c inside the frame;
///                                       the bits of columns outside mean nothing.
template <class P>
concept BitsPattern = Pattern<P> && requires(const P pattern, const Frame& frame, int n) {
  { pattern.kept_bits(frame, n, n) } -> std::same_as<uint64_t>;
};

/// The bits of any pattern.
template <Pattern P>
SPLASH_HD uint64_t kept_bits(const P& pattern, const Frame& frame, int row, int column) {
  if constexpr (BitsPattern<P>) {
    return pattern.kept_bits(frame, row, column);
  } else {
    uint64_t bits = 0;
    SPLASH_NO_UNROLL
    for (int c = 0; c < 64 && column + c < frame.num_keys; ++c)
      bits |= uint64_t(pattern.keep(frame, row, column + c)) << c;
    return bits;
  }
}

/// What 32 neighbouring tiles of columns hold, a bit a tile.
struct TileBits {
  uint32_t kept, full;
};

/// Optional, of patterns that hold such bits: 32 answers of classify() at once.
///   has_tile_bits(frame, size)          can it, of tiles of this many columns?
///   tile_bits(frame, r0, r1, word)      of rows [r0, r1) and tiles 32 * word to 32 * word + 31: a bit of `full` says
///   that
///                                       the part of the tile inside the frame is full, one of `kept` is 0 only if it
///                                       is empty; bits of tiles outside of the frame mean nothing.
template <class P>
concept TileBitsPattern = Pattern<P> && requires(const P pattern, const Frame& frame, int n) {
  { pattern.has_tile_bits(frame, n) } -> std::same_as<bool>;
  { pattern.tile_bits(frame, n, n, n) } -> std::same_as<TileBits>;
};

/// Optional: the same about 32 neighbouring tiles of rows, of columns [c0, c1), for the key-major walk.
template <class P>
concept RowTileBitsPattern = Pattern<P> && requires(const P pattern, const Frame& frame, int n) {
  { pattern.has_row_tile_bits(frame, n) } -> std::same_as<bool>;
  { pattern.row_tile_bits(frame, n, n, n) } -> std::same_as<TileBits>;
};

/// Optional: that no key needs another row than its own.
///   keeps_self(frame)                   every (row, column) inside the frame with i(row) == j(column) is kept.
template <Pattern P>
SPLASH_HD bool keeps_self(const P& pattern, const Frame& frame) {
  if constexpr (requires {
                  { pattern.keeps_self(frame) } -> std::same_as<bool>;
                })
    return pattern.keeps_self(frame);
  else
    return false;
}

/// Optional: that runs of positions are problems of their own.
///   closes(run)                         positions n run to (n + 1) run - 1 keep none but each other, for every n.
template <Pattern P>
SPLASH_HD bool closes(const P& pattern, int run) {
  if constexpr (requires {
                  { pattern.closes(run) } -> std::same_as<bool>;
                })
    return pattern.closes(run);
  else
    return false;
}

/// Says by kBlockLists = true that tiles as large as its blocks are whole, and that rows are of about one length.
template <class P>
concept BlockListPattern = Pattern<P> && bool(P::kBlockLists);

/// Says by kSimple = true that its answers take few registers of a GPU thread, which leaves more to the other threads.
template <class P>
concept SimplePattern = Pattern<P> && bool(P::kSimple);

/// Says by kPart = true that other patterns run as several calls of which a later one is of this pattern
/// (kernels/parts.hpp), so that its rows must be able to go on from what an earlier call found.
template <class P>
inline constexpr bool kIsPart = requires { requires P::kPart; };

/// Rows at the start and at the end of a problem's own rows.
struct GlobalRows {
  int64_t first = 0, last = 0;
};

/// Rows of a problem whose positions lie before this one; of the longest sequence where they are packed.
inline int64_t rows_before(int64_t position, const AttentionInputs& in) {
  const Positions& p = in.positions;
  const int64_t rows = p.cu_queries ? p.max_queries : in.q.shape[2];
  const int64_t start = p.cu_queries ? p.k_start : p.q_start;
  return position <= start ? 0 : (position - start < rows ? position - start : rows);
}

/// Columns of a problem whose positions lie before this one.
inline int64_t columns_before(int64_t position, const AttentionInputs& in) {
  const int64_t columns = in.positions.cu_keys ? in.positions.max_keys : in.k.shape[2];
  const int64_t before = position - in.positions.k_start;
  return before <= 0 ? 0 : (before < columns ? before : columns);
}

/// The widths of tiles that patterns choose between; the numbers are tuning::kTileWidths.
struct TileWidths {
  int narrow;         ///< columns of a narrow tile
  int64_t short_row;  ///< rows that keep fewer keys than this are served best by narrow tiles

  /// What tile_columns(term, widths) says of a pattern whose rows keep a span of this many keys.
  constexpr int of_row(int64_t keys) const { return keys < short_row ? narrow : 0; }
};

/// A pattern as a type, by which the host finds it in the list of patterns, whatever its name is there.
struct TypeId {
  const void* tag = nullptr;
  bool operator==(const TypeId&) const = default;
};

template <class P>
inline constexpr char kTypeTag = 0;

template <class P>
constexpr TypeId type_id() {
  return {&kTypeTag<P>};
}

/// One of the disjoint patterns that a pattern is the union of, as a term, and the layout in which it is computed.
struct Part {
  TypeId pattern;    ///< what it is
  PatternTerm term;  ///< its numbers
  int64_t residues = 1;
  KeyRuns key_runs;
};

inline constexpr int kMaxParts = 2;  ///< of one pattern

template <class P>
Part part_of(std::initializer_list<int64_t> numbers) {
  Part part{type_id<P>(), {}, 1, {}};
  for (const int64_t number : numbers) part.term.ints[part.term.num_ints++] = number;
  return part;
}

struct SlidingWindow;

/// A window within each class of positions modulo `residues`; sides as a band has them, -1 for an unlimited one. The
/// keys begin `nearest` steps before the query.
inline Part window_part(int64_t left, int64_t nearest, int64_t residues) {
  Part part = part_of<SlidingWindow>({left, 0});
  if (nearest > 0) part.term.ints[part.term.num_ints++] = nearest;
  part.residues = residues;
  return part;
}

/// The shorter of two sides; negative ones do not limit.
constexpr int64_t shorter_side(int64_t a, int64_t b) { return a < 0 ? b : (b < 0 || a < b ? a : b); }

/// A pattern that the instance table can build: from(term) makes it from its numbers and tensors. By kList = true it
/// takes a list of numbers, too. Optional beside it,
/// all of them static and for the host:
///   misfit(term, inputs)                why a term contradicts the inputs; nullptr: it does not.
///   tile_columns(term, widths)          how many columns a tile should have: more of them would mostly be masked, or
///                                       cross blocks; 0 where it does not matter.
///   global_rows(term, inputs)           the rows that keep nearly all keys, where others keep few. A hint: right or
///                                       wrong, results are the same.
///   global_columns(term, inputs)        the same of keys that nearly all rows keep.
///   parts(term, inputs, band, parts)    writes disjoint patterns whose union is just what the term and a band of sides
///                                       band[0] and band[1] keep together, and returns how many there are; 0 where no
///                                       union serves better. Asked for on CUDA only.
///   of_head(term, head)                 what one query head keeps, as a term of another pattern of the list. CUDA
///                                       asks nothing else of such patterns, but in the backward where heads of a
///                                       group differ in no regular way.
///   residues(term, dilation, sides)     true where just the scores with (i - j) % dilation == 0 and -sides[1] <=
///                                       (i - j) / dilation <= sides[0] are kept, -1 for an unlimited side.
template <class P>
concept TablePattern = Pattern<P> && requires(const PatternTerm& term) {
  { P::from(term) } -> std::same_as<P>;
};

}  // namespace patterns
SPLASH_NAMESPACE_END
