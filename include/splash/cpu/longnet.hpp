// LongNet's mixture on the host, and its gradient: a row of a token is read from every part that has it.
#pragma once

#include "splash/cpu/parallel.hpp"
#include "splash/cpu/tile.hpp"
#include "splash/patterns/longnet.hpp"

SPLASH_NAMESPACE_BEGIN
namespace cpu {

/// Some tokens of one head. Weights are those of the parts that have the token at hand.
template <class Real, class Element>
class LongNetWorker {
  using Head = patterns::LongNetHead<Element, Real>;
  struct Share {
    Real weight;
    Element* row;
  };

 public:
  LongNetWorker(const LongNetMixture& mixture, Arena& memory)
      : mixture_(mixture), heads_(memory.take<Head>(mixture.count)), shares_(memory.take<Share>(mixture.count)) {}

  void choose(int batch, int head) {
    count_ = 0;
    for (int p = 0; p < mixture_.count; ++p)
      if (Head::has(mixture_.parts[p], head)) heads_[count_++] = Head(mixture_.parts[p], batch, head);
  }

  void forward(int token, Element* mixed) {
    const int shares = weigh(token);
    for_columns([&](int64_t column, auto load, auto store) {
      auto total = load.zero();
      for (int s = 0; s < shares; ++s)
        if (shares_[s].weight != Real(0)) total = total + load(shares_[s].row + column) * load.all(shares_[s].weight);
      store(mixed + column, total);
    });
  }

  void backward(int token, const Element* grad) {
    const int shares = weigh(token);
    for_columns([&](int64_t column, auto load, auto store) {
      for (int s = 0; s < shares; ++s) {
        const auto weight = load.all(shares_[s].weight);
        store(shares_[s].row + column, shares_[s].weight == Real(0) ? load.zero() : load(grad + column) * weight);
      }
    });
  }

 private:
  struct Vectors {
    Simd<Real> operator()(const Element* from) const { return load_vector<Real>(from); }
    void operator()(Element* to, Simd<Real> x) const { store_vector(to, x); }
    Simd<Real> zero() const { return Simd<Real>(Real(0)); }
    Simd<Real> all(Real x) const { return Simd<Real>(x); }
  };
  struct Numbers {
    Real operator()(const Element* from) const { return Real(*from); }
    void operator()(Element* to, Real x) const { *to = Element(x); }
    Real zero() const { return 0; }
    Real all(Real x) const { return x; }
  };

  template <class Body>
  void for_columns(const Body& body) const {
    int64_t column = 0;
    for (; column + Simd<Real>::kLanes <= mixture_.head_dim; column += Simd<Real>::kLanes)
      body(column, Vectors{}, Vectors{});
    for (; column < mixture_.head_dim; ++column) body(column, Numbers{}, Numbers{});
  }

  /// The softmax of the log-sum-exps of the parts that have the token; their number. 0 where all of them are -inf.
  int weigh(int token) {
    int shares = 0;
    Real largest = -math::kInfinity<Real>;
    for (int n = 0; n < count_; ++n) {
      const int64_t place = heads_[n].tokens.place(token);
      if (place < 0) continue;
      const Real lse = heads_[n].lse[place * heads_[n].lse_stride];
      largest = math::max(largest, lse);
      shares_[shares++] = {lse, heads_[n].rows + place * heads_[n].row_stride};
    }
    Real sum = 0;
    for (int s = 0; s < shares; ++s) {
      Real& weight = shares_[s].weight;
      weight = weight == -math::kInfinity<Real> ? Real(0) : math::exp2((weight - largest) * Real(math::kLog2E));
      sum += weight;
    }
    for (int s = 0; s < shares; ++s)
      if (shares_[s].weight != Real(0)) shares_[s].weight /= sum;
    return shares;
  }

  const LongNetMixture& mixture_;
  Head* heads_;
  Share* shares_;
  int count_ = 0;
};

/// row(worker, token, its row of `mixed`) for every token of every head.
template <class Real, class Element, class Row>
Status for_longnet_rows(const LongNetMixture& mixture, const Execution& execution, const Row& row) {
  constexpr int64_t kTokens = 512;  // of a task
  const TensorView& mixed = mixture.mixed;
  const int64_t pieces = (mixed.shape[2] + kTokens - 1) / kTokens, tasks = mixed.shape[0] * mixed.shape[1] * pieces;
  const int workers = worker_count(execution.parallel, tasks);
  Arena counted(nullptr);
  LongNetWorker<Real, Element>(mixture, counted);
  const Buffer buffer(counted.bytes() * workers);
  if (!buffer.data()) return out_of_memory();
  for_each_task(execution.parallel, workers, tasks, [&](int w, int64_t task) {
    Arena memory(buffer.data() + w * counted.bytes());
    LongNetWorker<Real, Element> worker(mixture, memory);
    const int64_t batch = task / (pieces * mixed.shape[1]), head = task / pieces % mixed.shape[1];
    const int64_t begin = task % pieces * kTokens;
    const int64_t end = begin + kTokens < mixed.shape[2] ? begin + kTokens : mixed.shape[2];
    worker.choose(int(batch), int(head));
    Element* rows = static_cast<Element*>(mixed.data) + batch * mixed.stride[0] + head * mixed.stride[1];
    for (int64_t token = begin; token < end; ++token) row(worker, int(token), rows + token * mixed.stride[2]);
  });
  return {};
}

template <class Real, class Element>
Status longnet_mix_forward(const LongNetMixture& mixture, const Execution& execution) {
  return for_longnet_rows<Real, Element>(mixture, execution,
                                         [](auto& worker, int token, Element* row) { worker.forward(token, row); });
}

template <class Real, class Element>
Status longnet_mix_backward(const LongNetMixture& mixture, const Execution& execution) {
  return for_longnet_rows<Real, Element>(mixture, execution,
                                         [](auto& worker, int token, Element* row) { worker.backward(token, row); });
}

}  // namespace cpu
SPLASH_NAMESPACE_END
