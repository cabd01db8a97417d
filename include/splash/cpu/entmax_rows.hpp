// Entmax along one dimension of a tensor on the host, and its gradient.
//
// Where neighbouring numbers belong to one row, the lanes of a vector are numbers of that row; where they belong to
// neighbouring rows, a lane is a row. Forward: one pass finds the largest values of some groups, whose tau bounds the
// row's from below (normalizers/entmax_rows.hpp); one pass gathers the candidates above that bound, on which tau is
// solved; one pass writes. Backward: one pass for the two sums, one to write; the gradient is read where p is not 0.
#pragma once

#include <type_traits>

#include "splash/core/rows.hpp"
#include "splash/cpu/parallel.hpp"
#include "splash/cpu/tile.hpp"
#include "splash/normalizers/entmax_rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// A bit a lane.
template <class Real>
SPLASH_HD unsigned bits_of(typename Simd<Real>::Mask mask) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(Real) == 4)
    return _mm512_movepi32_mask((__m512i)mask.lanes);
  else
    return _mm512_movepi64_mask((__m512i)mask.lanes);
#elif defined(__AVX__) && !defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4)
    return unsigned(_mm256_movemask_ps((__m256)mask.lanes));
  else
    return unsigned(_mm256_movemask_pd((__m256d)mask.lanes));
#else
  unsigned bits = 0;
  for (int l = 0; l < Simd<Real>::kLanes; ++l) bits |= unsigned(mask.lanes[l] & 1) << l;
  return bits;
#endif
}

/// The larger one, NaN where either is.
template <class Real>
SPLASH_HD Simd<Real> max_or_nan(Simd<Real> a, Simd<Real> b) {
  return Simd<Real>::select({(a > b).lanes | ~(a == a).lanes}, a, b);
}

/// Vectors one after the other: all that there is to a fragment of one row, or of a row a lane.
template <class Real>
struct VectorLine {
  const Real* data;
  int count;

  SPLASH_HD int columns() const { return count; }
  SPLASH_HD Simd<Real> get(int, int c) const { return Simd<Real>::load(data + int64_t(c) * Simd<Real>::kLanes); }
};

/// Lanes are numbers of one row.
template <class Real>
struct AcrossLanes {
  using Value = Simd<Real>;
  SPLASH_HD Value max(Value x) const {
    Real all = x.lanes[0];
    for (int l = 1; l < Value::kLanes; ++l) all = all > x.lanes[l] || all != all ? all : x.lanes[l];
    return Value(all);
  }
  SPLASH_HD void sums(Value& a, Value& b) const {
    a = sum(a);
    b = sum(b);
  }
  SPLASH_HD bool any(bool again) const { return again; }

 private:
  static SPLASH_HD Value sum(Value x) {
    Real part[Value::kLanes];
    x.store(part);
    for (int half = Value::kLanes / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) part[l] += part[l + half];
    return Value(part[0]);
  }
};

/// A lane is a row: nothing to combine.
struct WithinLanes {
  template <class Value>
  SPLASH_HD Value max(Value x) const {
    return x;
  }
  template <class Value>
  SPLASH_HD void sums(Value&, Value&) const {}
  SPLASH_HD bool any(bool again) const { return again; }
};

/// The rows of a call for one worker, with the memory that it works in.
template <class Real, class Exponent, class Element>
class EntmaxRowsWorker {
  using Value = Simd<Real>;
  static constexpr int kLanes = Value::kLanes;
  /// Vectors of group maxima. Lanes along a row: kLanes groups each; a lane a row: one group each.
  static constexpr int kLineGroups = 4, kLaneGroups = 16;

 public:
  /// Rows are taken lane by lane where this many neighbours fill a vector.
  static constexpr int64_t kRowsAtOnce = kLanes;

  EntmaxRowsWorker(const RowShape& shape, double alpha, Arena& memory)
      : length_(shape.length), inner_(shape.inner), n_(normalizers::entmax_of_numbers<Real, Exponent>(alpha)) {
    const int64_t width = lanes_are_rows(shape) ? kLanes : 1;
    scratch_ = memory.take<Real>(length_ * width + kLanes);
    if (lanes_are_rows(shape)) places_ = memory.take<int64_t>(length_);
    if (inner_ > 1 && !lanes_are_rows(shape))
      for (Element*& line : lines_) line = memory.take<Element>(length_);
  }

  static bool lanes_are_rows(const RowShape& shape) { return shape.inner >= kRowsAtOnce; }

  /// One row whose numbers are inner_ apart.
  void forward_row(const Element* x, Element* p) const {
    if (inner_ == 1) return forward_line(x, p);
    copy(x, inner_, lines_[0], 1);
    forward_line(lines_[0], lines_[0]);
    copy(lines_[0], 1, p, inner_);
  }

  void backward_row(const Element* p, const Element* grad, Element* grad_x) const {
    if (inner_ == 1) return backward_line(p, grad, grad_x);
    copy(p, inner_, lines_[0], 1);
    copy(grad, inner_, lines_[1], 1);
    backward_line(lines_[0], lines_[1], lines_[0]);
    copy(lines_[0], 1, grad_x, inner_);
  }

  /// `rows` <= kLanes rows that are neighbours.
  void forward_lanes(const Element* x, Element* p, int rows) const {
    Real maxima[kLaneGroups * kLanes];
    for (int g = 0; g < kLaneGroups; ++g) minus_infinity().store(maxima + g * kLanes);
    for (int64_t j = 0; j < length_; ++j) {
      const Value raw = load(x + j * inner_, rows, -math::kInfinity<Real>);
      raw.store(scratch_ + j * kLanes);
      Real* group = maxima + j % kLaneGroups * kLanes;
      max_or_nan(Value::load(group), raw).store(group);
    }
    Value max = minus_infinity();
    for (int g = 0; g < kLaneGroups; ++g) max = max_or_nan(max, Value::load(maxima + g * kLanes));
    const WithinLanes reduce;
    normalizers::EntmaxRow<Real, Exponent, Value> row(n_, max, reduce);
    solve(row, {maxima, kLaneGroups}, reduce);

    int64_t count = 0;
    for (int64_t j = 0; j < length_; ++j) {
      const Value raw = Value::load(scratch_ + j * kLanes);
      raw.store(scratch_ + count * kLanes);
      places_[count] = j;
      count += some(row.base(raw)) ? 1 : 0;
    }
    if (length_ > kLaneGroups) {
      solve(row, {scratch_, int(count)}, reduce);
    }
    int64_t next = 0;
    for (int64_t j = 0; j < length_; ++j) {
      const bool kept = next < count && places_[next] == j;
      store(p + j * inner_, kept ? row.weight(Value::load(scratch_ + next * kLanes)) : Value(Real(0)), rows);
      next += kept ? 1 : 0;
    }
  }

  void backward_lanes(const Element* p, const Element* grad, Element* grad_x, int rows) const {
    Sums sums;
    for (int64_t j = 0; j < length_; ++j) {
      const Value u = slope(load(p + j * inner_, rows, Real(0)));
      u.store(scratch_ + j * kLanes);
      if (some(u)) sums.add(u, load(grad + j * inner_, rows, Real(0)));
    }
    const Value delta = sums.delta(WithinLanes{});
    for (int64_t j = 0; j < length_; ++j) {
      const Value u = Value::load(scratch_ + j * kLanes);
      store(grad_x + j * inner_, some(u) ? product(u, load(grad + j * inner_, rows, Real(0)) - delta) : u, rows);
    }
  }

 private:
  static Value minus_infinity() { return Value(-math::kInfinity<Real>); }
  /// True where a lane is not 0.
  static bool some(Value x) { return bits_of<Real>({~(x == Value(Real(0))).lanes}) != 0; }
  static Value product(Value u, Value x) { return math::select(u == Value(Real(0)), Value(Real(0)), u * x); }
  Value slope(Value p) const { return normalizers::slope_of_weight(n_.exponent, p); }

  template <class Row, class Reduce>
  static void solve(Row& row, const VectorLine<Real>& line, const Reduce& reduce) {
    constexpr int kPart = 16;
    row.solve(
        [&](const auto& observe) {
          for (int c = 0; c < line.count; c += kPart)
            observe(VectorLine<Real>{line.data + int64_t(c) * kLanes, line.count - c < kPart ? line.count - c : kPart});
        },
        reduce);
  }

  static Value load(const Element* from, int count, Real fill) {
    if (count == kLanes) return load_vector<Real>(from);
    Value x(fill);
    for (int l = 0; l < count; ++l) x.lanes[l] = Real(from[l]);
    return x;
  }
  static void store(Element* to, Value x, int count) {
    if (count == kLanes) return store_vector(to, x);
    for (int l = 0; l < count; ++l) to[l] = Element(x.lanes[l]);
  }

  void copy(const Element* from, int64_t from_step, Element* to, int64_t to_step) const {
    for (int64_t j = 0; j < length_; ++j) to[j * to_step] = from[j * from_step];
  }

  /// body(j, count) over the vectors of a line; count < kLanes in the last one.
  template <class Body>
  void along_line(const Body& body) const {
    int64_t j = 0;
    for (; j + kLanes <= length_; j += kLanes) body(j, kLanes);
    if (j < length_) body(j, int(length_ - j));
  }

  void forward_line(const Element* x, Element* p) const {
    const AcrossLanes<Real> reduce;
    Value maxima[kLineGroups];
    for (Value& group : maxima) group = minus_infinity();
    int64_t j = 0;
    for (; j + kLineGroups * kLanes <= length_; j += kLineGroups * kLanes)
      for (int g = 0; g < kLineGroups; ++g) maxima[g] = max_or_nan(maxima[g], load_vector<Real>(x + j + g * kLanes));
    for (int g = 0; j < length_; j += kLanes, ++g)
      maxima[g] =
          max_or_nan(maxima[g], load(x + j, int(length_ - j < kLanes ? length_ - j : kLanes), -math::kInfinity<Real>));

    Real stored[kLineGroups * kLanes];
    Value max = maxima[0];
    for (int g = 0; g < kLineGroups; ++g) {
      maxima[g].store(stored + g * kLanes);
      max = max_or_nan(max, maxima[g]);
    }
    normalizers::EntmaxRow<Real, Exponent, Value> row(n_, max, reduce);
    solve(row, {stored, kLineGroups}, reduce);
    if (length_ > kLineGroups * kLanes) {
      solve(row, {scratch_, gather(x, row)}, reduce);
    }
    along_line([&](int64_t j, int count) __attribute__((always_inline)) {
      const Value base = row.base(load(x + j, count, -math::kInfinity<Real>));
      // A power costs more than the look at whether there is any.
      const bool zero = std::is_same_v<Exponent, normalizers::PowerExponent> && !some(base);
      store(p + j, zero ? base : row.weight_of(base), count);
    });
  }

  /// Copies the numbers above the present tau; the number of vectors they fill, the last one filled up with -inf.
  template <class Row>
  int gather(const Element* x, const Row& row) const {
    Real* next = scratch_;
    along_line([&](int64_t j, int count) __attribute__((always_inline)) {
      const Value raw = load(x + j, count, -math::kInfinity<Real>);
      unsigned bits = bits_of<Real>({~(row.base(raw) == Value(Real(0))).lanes});
      for (; bits; bits &= bits - 1) *next++ = Real(x[j + __builtin_ctz(bits)]);
    });
    minus_infinity().store(next);
    return int((next - scratch_ + kLanes - 1) / kLanes);
  }

  /// Sums of sums, as one long chain of additions would lose digits.
  struct Sums {
    Value mass = Value(Real(0)), moment = Value(Real(0));
    Value part_mass = Value(Real(0)), part_moment = Value(Real(0));
    int added = 0;

    void add(Value u, Value gradient) {
      part_mass = part_mass + u;
      part_moment = part_moment + product(u, gradient);
      if (++added % 64 == 0) close_part();
    }
    void close_part() {
      mass = mass + part_mass;
      moment = moment + part_moment;
      part_mass = part_moment = Value(Real(0));
    }
    template <class Reduce>
    Value delta(const Reduce& reduce) {
      close_part();
      reduce.sums(mass, moment);
      return normalizers::entmax_delta(mass, moment);
    }
  };

  void backward_line(const Element* p, const Element* grad, Element* grad_x) const {
    Sums sums;
    along_line([&](int64_t j, int count) __attribute__((always_inline)) {
      const Value u = slope(load(p + j, count, Real(0)));
      u.store(scratch_ + j);
      if (some(u)) sums.add(u, load(grad + j, count, Real(0)));
    });
    const Value delta = sums.delta(AcrossLanes<Real>{});
    along_line([&](int64_t j, int count) __attribute__((always_inline)) {
      const Value u = Value::load(scratch_ + j);
      store(grad_x + j, some(u) ? product(u, load(grad + j, count, Real(0)) - delta) : u, count);
    });
  }

  int64_t length_, inner_;
  normalizers::Entmax<Real, Exponent> n_;
  Real* scratch_ = nullptr;                 ///< candidates, or u in the backward
  int64_t* places_ = nullptr;               ///< of the candidates, where lanes are rows
  Element* lines_[2] = {nullptr, nullptr};  ///< rows whose numbers were not neighbours
};

/// body(worker, first number of the row, rows) for all rows of a call, or for groups of up to kLanes neighbours.
template <class Real, class Exponent, class Element, class Body>
Status for_rows(const RowShape& shape, double alpha, const Execution& execution, const Body& body) {
  using Worker = EntmaxRowsWorker<Real, Exponent, Element>;
  if (shape.outer <= 0 || shape.length <= 0 || shape.inner <= 0) return {};
  constexpr int64_t kNumbersATask = 1 << 15;
  const int64_t width = Worker::lanes_are_rows(shape) ? Worker::kRowsAtOnce : 1;
  const int64_t groups = (shape.inner + width - 1) / width, units = shape.outer * groups;
  const int64_t task_units = 1 + kNumbersATask / (shape.length * width), tasks = (units + task_units - 1) / task_units;
  const int workers = worker_count(execution.parallel, tasks);
  Arena counting(nullptr);
  const Worker counted(shape, alpha, counting);
  Buffer buffer(counting.bytes() * workers);
  if (!buffer.data()) return out_of_memory();
  for_each_task(execution.parallel, workers, tasks, [&](int w, int64_t task) {
    Arena memory(buffer.data() + w * counting.bytes());
    const Worker worker(shape, alpha, memory);
    const int64_t end = (task + 1) * task_units < units ? (task + 1) * task_units : units;
    for (int64_t unit = task * task_units; unit < end; ++unit) {
      const int64_t i = unit % groups * width, rows = shape.inner - i < width ? shape.inner - i : width;
      body(worker, unit / groups * shape.length * shape.inner + i, int(rows));
    }
  });
  return {};
}

/// p = entmax(x) along each row; Real is float, or double where Element is.
template <class Real, class Exponent, class Element>
Status entmax_rows_forward(const EntmaxRowsForward& args, const Execution& execution) {
  const Element* x = static_cast<const Element*>(args.x);
  Element* p = static_cast<Element*>(args.p);
  return for_rows<Real, Exponent, Element>(args.rows, args.alpha, execution,
                                           [=](const auto& worker, int64_t first, int rows) {
                                             if (worker.lanes_are_rows(args.rows))
                                               worker.forward_lanes(x + first, p + first, rows);
                                             else
                                               worker.forward_row(x + first, p + first);
                                           });
}

template <class Real, class Exponent, class Element>
Status entmax_rows_backward(const EntmaxRowsBackward& args, const Execution& execution) {
  const Element* p = static_cast<const Element*>(args.p);
  const Element* grad = static_cast<const Element*>(args.grad);
  Element* grad_x = static_cast<Element*>(args.grad_x);
  return for_rows<Real, Exponent, Element>(args.rows, args.alpha, execution,
                                           [=](const auto& worker, int64_t first, int rows) {
                                             if (worker.lanes_are_rows(args.rows))
                                               worker.backward_lanes(p + first, grad + first, grad_x + first, rows);
                                             else
                                               worker.backward_row(p + first, grad + first, grad_x + first);
                                           });
}

}  // namespace cpu
SPLASH_NAMESPACE_END
