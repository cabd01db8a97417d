// The CPU mainloops ask a pattern and a normalizer everything that their contracts name: policies that count their
// calls run through forward and backward, and give what the policies that they wrap give.
#include <map>
#include <string>

#include "check.hpp"
#include "problem.hpp"
#include "splash/cpu/backward.hpp"
#include "splash/cpu/forward.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax.hpp"
#include "splash/patterns/sliding_window.hpp"

namespace {

using namespace splash;

std::map<std::string, long> calls;

struct CountingWindow {
  patterns::SlidingWindow window;

  bool keep(const Frame& frame, int row, int column) const { return ++calls["keep"], window.keep(frame, row, column); }
  TileState classify(const Frame& frame, const Box& box) const {
    return ++calls["classify"], window.classify(frame, box);
  }
  int next_column(const Frame& frame, int row_begin, int row_end, int column) const {
    return ++calls["next_column"], window.next_column(frame, row_begin, row_end, column);
  }
  int next_row(const Frame& frame, int column_begin, int column_end, int row) const {
    return ++calls["next_row"], window.next_row(frame, column_begin, column_end, row);
  }
};

/// Hooks that a normalizer does not declare are not asked for, so the wrapper hands each one on as a template.
template <class Inner>
struct Counting {
  static constexpr bool kScoreSweeps = Inner::kScoreSweeps;
  static constexpr bool kRescales = Inner::kRescales;
  static constexpr bool kDeltaSweep = Inner::kDeltaSweep;
  static constexpr int kSaved = Inner::kSaved;

  Inner inner;

  static Counting from(const NormalizerSpec& spec, double scale) {
    ++calls["from"];
    return {Inner::from(spec, scale)};
  }

  template <class Value>
  static Value empty_statistic() {
    ++calls["empty_statistic"];
    return Inner::template empty_statistic<Value>();
  }

  template <class Value, int R>
  struct Rows {
    typename Inner::template Rows<Value, R> rows;

    template <class Fragment>
    void observe(const Counting& n, Fragment& fragment) {
      ++calls["observe"];
      rows.observe(n.inner, fragment);
    }
    template <class Reduce>
    bool refine(const Counting& n, const Reduce& reduce) {
      ++calls["refine"];
      return rows.refine(n.inner, reduce);
    }
    template <class Fragment, class Reduce>
    void meet(const Counting& n, Fragment& fragment, Value (&rescale)[R], const Reduce& reduce) {
      ++calls["meet"];
      rows.meet(n.inner, fragment, rescale, reduce);
    }
    template <class Fragment>
    void weigh(const Counting& n, Fragment& fragment) {
      ++calls["weigh"];
      rows.weigh(n.inner, fragment);
    }
    template <class Reduce>
    void finish(const Counting& n, const Reduce& reduce) {
      ++calls["finish"];
      rows.finish(n.inner, reduce);
    }
    Value output_factor(const Counting& n, int r) const {
      return ++calls["output_factor"], rows.output_factor(n.inner, r);
    }
    Value statistic(const Counting& n, int r) const { return ++calls["statistic"], rows.statistic(n.inner, r); }
    Value saved(int r, int s) const { return ++calls["saved"], rows.saved(r, s); }
  };

  template <class Value, int R>
  struct Gradient : Inner::template Gradient<Value, R> {
    using Base = typename Inner::template Gradient<Value, R>;

    template <class Saved>
    void load(const Counting& n, int r, Value statistic, const Saved& saved) {
      ++calls["gradient load"];
      Base::load(n.inner, r, statistic, saved);
    }
    template <class Scores, class Dp>
    void observe(const Counting& n, const Scores& scores, const Dp& dp) {
      ++calls["gradient observe"];
      Base::observe(n.inner, scores, dp);
    }
    template <class Reduce>
    void close(const Counting& n, int r, Value output_dot, Value dstatistic, const Reduce& reduce) {
      ++calls["gradient close"];
      Base::close(n.inner, r, output_dot, dstatistic, reduce);
    }
    template <class Scores, class Dp>
    void apply(const Counting& n, Scores& scores, Dp& dp) const {
      ++calls["gradient apply"];
      Base::apply(n.inner, scores, dp);
    }
  };
};

bool same(const std::vector<float>& a, const std::vector<float>& b) { return a == b; }

template <class Normalizer>
void check_hooks(const char* name, double alpha) {
  const patterns::SlidingWindow window{70, 5};
  Problem plain(150, 170, alpha), counted(150, 170, alpha);
  calls.clear();
  bool ok = cpu::forward<patterns::SlidingWindow, Normalizer, float, float>(window, plain.forward, {}).ok();
  ok = ok && cpu::backward<patterns::SlidingWindow, Normalizer, float, float>(window, plain.backward, {}).ok();
  ok = ok && cpu::forward<CountingWindow, Counting<Normalizer>, float, float>({window}, counted.forward, {}).ok();
  std::vector<const char*> hooks = {"keep",  "classify", "next_column",   "from",
                                    "weigh", "finish",   "output_factor", "statistic"};
  if (Normalizer::kScoreSweeps) hooks.insert(hooks.end(), {"observe", "refine"});
  if (Normalizer::kRescales) hooks.push_back("meet");
  if (Normalizer::kSaved > 0) hooks.push_back("saved");
  for (const char* hook : hooks) check::that(calls[hook] > 0, "%s forward never calls %s", name, hook);

  calls.clear();
  ok = ok && cpu::backward<CountingWindow, Counting<Normalizer>, float, float>({window}, counted.backward, {}).ok();
  hooks = {"keep",          "classify",       "next_row",      "from", "empty_statistic",
           "gradient load", "gradient close", "gradient apply"};
  if (Normalizer::kDeltaSweep) hooks.insert(hooks.end(), {"next_column", "gradient observe"});
  for (const char* hook : hooks) check::that(calls[hook] > 0, "%s backward never calls %s", name, hook);

  check::that(ok, "%s: a call failed", name);
  check::that(same(plain.out, counted.out) && same(plain.statistic, counted.statistic), "%s: outputs differ", name);
  check::that(
      same(plain.grad_q, counted.grad_q) && same(plain.grad_k, counted.grad_k) && same(plain.grad_v, counted.grad_v),
      "%s: gradients differ", name);
}

}  // namespace

int main() {
  check_hooks<normalizers::Softmax<float>>("softmax", 0);
  check_hooks<normalizers::Entmax<float, normalizers::SquareExponent>>("entmax15", 1.5);
  check_hooks<normalizers::Entmax<float, normalizers::GeneralExponent>>("entmax", 1.25);
  return check::summary("test_policies");
}
