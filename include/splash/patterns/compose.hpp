// The only conjunction: of two types known at compile time, and of up to kMaxTerms patterns known at run time.
#pragma once

#include <new>

#include "splash/patterns/arithmetic.hpp"
#include "splash/patterns/concept.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns {

SPLASH_HD constexpr TileState both(TileState a, TileState b) {
  return a == TileState::empty || b == TileState::empty ? TileState::empty
         : a == TileState::full && b == TileState::full ? TileState::full
                                                        : TileState::partial;
}

SPLASH_HD Box opaque(const Box& box) {
  return {opaque(box.row_begin), opaque(box.row_end), opaque(box.column_begin), opaque(box.column_end)};
}

/// The first number from `from` on that every term stops at, kEnd where they agree on none below `end`: each of them in
/// turn moves the candidate on to step(term, candidate), until all have let it be.
template <class Step>
SPLASH_HD int leapfrog(int terms, int from, int end, const Step& step) {
  SPLASH_NO_UNROLL
  for (int agreed = 0, t = 0; agreed < terms; t = t + 1 == terms ? 0 : t + 1) {
    if (from >= end) return kEnd;
    const int next = step(t, from);
    agreed = next == from ? agreed + 1 : 1;
    from = next;
  }
  return from;
}

// Every conjunction offers each_term(f): f(term) for its terms, so that code for tiles can treat each by its own type.

/// a & b.
template <Pattern A, Pattern B>
struct And {
  A a;
  B b;

  template <class F>
  SPLASH_HD void each_term(F&& f) const {
    f(a);
    f(b);
  }
  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    return a.keep(frame, row, column) && b.keep(frame, row, column);
  }
  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    return both(a.classify(frame, box), b.classify(frame, box));
  }
  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    return patterns::kept_bits(a, frame, row, column) & patterns::kept_bits(b, frame, row, column);
  }
  SPLASH_HD bool keeps_self(const Frame& frame) const {
    return patterns::keeps_self(a, frame) && patterns::keeps_self(b, frame);
  }
  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return leapfrog(2, column, frame.num_keys, [&](int t, int from) {
      return t == 0 ? a.next_column(frame, row_begin, row_end, from) : b.next_column(frame, row_begin, row_end, from);
    });
  }
  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return leapfrog(2, row, frame.num_queries, [&](int t, int from) {
      return t == 0 ? a.next_row(frame, column_begin, column_end, from)
                    : b.next_row(frame, column_begin, column_end, from);
    });
  }
};

/// One pattern out of a list, chosen at run time. `kind` is its place in the list.
template <TablePattern... Ps>
class AnyOf {
 public:
  AnyOf() = default;

  static SPLASH_HD AnyOf from(const PatternTerm& term) {
    AnyOf any;
    any.kind_ = term.kind;
    int index = 0;
    ((index++ == term.kind ? void(::new (static_cast<void*>(any.storage_)) Ps(Ps::from(term))) : void()), ...);
    return any;
  }

  template <class F>
  SPLASH_HD void each_term(F&& f) const {
    int index = 0;
    ((index++ == kind_ ? void(f(*reinterpret_cast<const Ps*>(storage_))) : void()), ...);
  }
  SPLASH_HD bool keep(const Frame& frame, int row, int column) const {
    return visit<bool>([&](const auto& p) { return p.keep(frame, row, column); });
  }
  SPLASH_HD TileState classify(const Frame& frame, const Box& box) const {
    return visit<TileState>([&](const auto& p) { return p.classify(frame, box); });
  }
  SPLASH_HD uint64_t kept_bits(const Frame& frame, int row, int column) const {
    return visit<uint64_t>([&](const auto& p) { return patterns::kept_bits(p, frame, row, column); });
  }
  SPLASH_HD int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return visit<int>([&](const auto& p) { return p.next_column(frame, row_begin, row_end, column); });
  }
  SPLASH_HD int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return visit<int>([&](const auto& p) { return p.next_row(frame, column_begin, column_end, row); });
  }

  SPLASH_HD bool keeps_self(const Frame& frame) const {
    return visit<bool>([&](const auto& p) { return patterns::keeps_self(p, frame); });
  }

 private:
  template <class Result, class Visitor>
  SPLASH_HD Result visit(Visitor&& visitor) const {
    Result result{};
    int index = 0;
    ((index++ == kind_ ? void(result = visitor(*reinterpret_cast<const Ps*>(storage_))) : void()), ...);
    return result;
  }

  static constexpr std::size_t kBytes = [] {
    std::size_t most = 1;
    ((most = sizeof(Ps) > most ? sizeof(Ps) : most), ...);
    return most;
  }();

  int kind_ = -1;
  alignas(8) unsigned char storage_[kBytes] = {};
};

/// Up to kMaxTerms patterns that must all keep a score; none keeps everything. This is the general instance of
/// kernels/instances.json: every `a & b` runs through it where no row of its own exists.
template <TablePattern Any>
struct Conjunction {
  Any terms[kMaxTerms];
  int count = 0;

  static SPLASH_HD Conjunction from(const PatternSpec& spec) {
    Conjunction all;
    all.count = spec.count;
    for (int t = 0; t < spec.count && t < kMaxTerms; ++t) all.terms[t] = Any::from(spec.terms[t]);
    return all;
  }

  template <class F>
  SPLASH_HD void each_term(F&& f) const {
    for (int t = 0; t < count; ++t) terms[t].each_term(f);
  }
  SPLASH_HD_LONG bool keep(const Frame& frame, int row, int column) const {
    SPLASH_NO_UNROLL
    for (int t = 0; t < count; ++t)
      if (!terms[t].keep(frame, opaque(row), opaque(column))) return false;
    return true;
  }
  SPLASH_HD_LONG TileState classify(const Frame& frame, const Box& box) const {
    TileState state = TileState::full;
    SPLASH_NO_UNROLL
    for (int t = 0; t < count && state != TileState::empty; ++t)
      state = both(state, terms[t].classify(frame, opaque(box)));
    return state;
  }
  SPLASH_HD_LONG uint64_t kept_bits(const Frame& frame, int row, int column) const {
    uint64_t bits = ~uint64_t(0);
    SPLASH_NO_UNROLL
    for (int t = 0; t < count; ++t) bits &= terms[t].kept_bits(frame, opaque(row), opaque(column));
    return bits;
  }
  SPLASH_HD bool keeps_self(const Frame& frame) const {
    for (int t = 0; t < count; ++t)
      if (!terms[t].keeps_self(frame)) return false;
    return true;
  }
  SPLASH_HD_LONG int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return leapfrog(count, column, frame.num_keys, [&](int t, int from) {
      return terms[t].next_column(frame, opaque(row_begin), opaque(row_end), from);
    });
  }
  SPLASH_HD_LONG int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return leapfrog(count, row, frame.num_queries, [&](int t, int from) {
      return terms[t].next_row(frame, opaque(column_begin), opaque(column_end), from);
    });
  }
};

}  // namespace patterns
SPLASH_NAMESPACE_END
