// What a pattern must answer, and nothing more.
#pragma once

#include <concepts>

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

/// Says by kUnrollKeep = true that keep() is so cheap that a GPU may inline it for every score of a partial tile.
template <class P>
concept UnrolledKeep = Pattern<P> && bool(P::kUnrollKeep);

/// A pattern that the instance table can build: from(term) makes it from its numbers and tensors. Optional beside it:
/// misfit(term, inputs) says why a term contradicts the inputs (nullptr: it does not), block(term) for which block size
/// an instance is wanted.
template <class P>
concept TablePattern = Pattern<P> && requires(const PatternTerm& term) {
  { P::from(term) } -> std::same_as<P>;
};

}  // namespace patterns
SPLASH_NAMESPACE_END
