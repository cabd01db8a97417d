// torch.ops.splash.longnet: attention over dilated segments, part by part, and its gradients. One node of a graph for
// all lengths, though how many calls of attention it takes depends on them.
#include <algorithm>
#include <optional>

#include "aten.hpp"
#include "attention.hpp"
#include "errors.hpp"
#include "execution.hpp"
#include "kernels/tables.hpp"
#include "longnet.hpp"

namespace splash::torch_ops {
namespace {

namespace tables = patterns::tables;
using Share = tables::LongNetShare;
using Sizes = std::vector<int64_t>;
using torch::headeronly::ScalarType;

/// Tokens of a residue in a whole segment, and among n.
int64_t per_segment(int64_t w, int64_t r, int64_t residue) { return residue < w ? (w - residue + r - 1) / r : 0; }
int64_t tokens_of(int64_t w, int64_t r, int64_t residue, int64_t n) {
  const int64_t rest = n % w - residue + r - 1;
  return n / w * per_segment(w, r, residue) + (rest < 0 ? 0 : rest / r);
}

/// One call of the operator, cut into calls of attention: its parts, in their order.
class LongNet {
 public:
  LongNet(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& lengths,
          const std::vector<int64_t>& segments, bool causal, double scale, bool deterministic)
      : device_(device_of(q)),
        scope_(device_, deterministic),
        inputs_{q, k, v},
        causal_(causal),
        scale_(scale),
        deterministic_(deterministic) {
    for (int n = 0; n < 3; ++n) views_[n] = input_view(inputs_[n], kNames[n], device_);
    for (int n = 0; n < 3; ++n)
      if (views_[n].rank != 4) value_error(kNames[n], " has ", views_[n].rank, " dimensions; expected 4");
    const int64_t kv_heads = views_[1].shape[1];
    if (kv_heads < 1 || heads() % kv_heads != 0) value_error("k has heads that do not divide those of q");
    for (int n = 1; n < 3; ++n)
      if (views_[n].shape[0] != batch() || views_[n].shape[1] != kv_heads || views_[n].shape[2] != tokens() ||
          views_[n].shape[3] != views_[0].shape[3] || views_[n].dtype != views_[0].dtype)
        value_error(kNames[n], " must have q's batch, tokens, head dimension and dtype, and the heads of k");
    if (lengths) {
      const TensorView view = input_view(*lengths, "lengths", device_);
      if (view.dtype != DType::int32 && view.dtype != DType::int64) type_error("lengths must be int32 or int64");
      if (view.rank != 1 || view.shape[0] != batch()) value_error("lengths must have ", batch(), " entries");
      lengths_ = torch::stable::contiguous(torch::stable::to(*lengths, ScalarType::Int));
    }
    if (segments.empty() || segments.size() % 2 != 0) value_error("segments must be pairs of numbers");
    for (const int64_t number : segments)
      if (number < 1 || number > kMaxPosition) value_error("segments has ", number, "; expected 1 to 2**29 - 1");
    for (size_t n = 0; n < segments.size(); n += 2) add_branch(segments[n], segments[n + 1]);
  }

  bool empty() const { return parts_.empty(); }
  size_t count() const { return parts_.size(); }
  int64_t heads() const { return views_[0].shape[1]; }
  int64_t tokens() const { return views_[0].shape[2]; }

  /// As longnet_mix reads the parts.
  std::vector<int64_t> numbers() const {
    std::vector<int64_t> all;
    for (const Share& part : parts_) all.insert(all.end(), {part.segment, part.rate, part.first});
    return all;
  }

  /// The shape of a part's rows: (batch, residues, heads, tokens).
  Sizes shape(size_t part) const { return {batch(), parts_[part].residues, parts_[part].heads, parts_[part].tokens}; }

  /// What one call of attention takes: residues as entries of the batch, or as heads where they have one each.
  Tensor taken(size_t part, int input) const {
    const Share share = of(part, input);
    const TensorView& view = views_[input];
    const int64_t dim = view.shape[3];
    if (!steady(share)) return torch::stable::view(copied(share, input), call_shape(share, dim));
    // Heads and tokens in even steps are a view: with more than one residue there is one entry, or one head.
    const int64_t apart = (share.head(1, 0) - share.head(0, 0)) * view.stride[1] + view.stride[2];
    const int64_t head_step = (share.head(0, 1) - share.head(0, 0)) * view.stride[1];
    const int64_t offset =
        inputs_[input].storage_offset() + share.head(0, 0) * view.stride[1] + share.token(0, 0) * view.stride[2];
    const bool heads = as_heads(share);
    const int64_t first = heads || share.residues == 1 ? view.stride[0] : apart;
    return aten::strided(inputs_[input], call_shape(share, dim),
                         {first, heads ? apart : head_step, share.rate * view.stride[2], view.stride[3]}, offset);
  }

  ProblemArguments problem(size_t part) const {
    const Share& share = parts_[part];
    ProblemArguments problem;
    problem.pattern = "block_diagonal";
    problem.pattern_ints = {share.per_segment, int64_t(causal_)};
    problem.normalizer = "softmax";
    problem.scale = scale_;
    problem.deterministic = deterministic_;
    if (lengths_) {
      const Tensor own = torch::stable::new_empty(*lengths_, {batch() * share.residues});
      run(tables::LongNetLengths{share, static_cast<const int32_t*>(lengths_->const_data_ptr()), batch(),
                                 static_cast<int32_t*>(own.mutable_data_ptr())});
      problem.lengths = own;
    }
    return problem;
  }

  /// A part's results as rows, `last` behind them, and rows as one call has them.
  Tensor as_rows(const Tensor& of_call, size_t part, const Sizes& last) const {
    Sizes sizes = shape(part);
    sizes.insert(sizes.end(), last.begin(), last.end());
    return torch::stable::reshape(of_call, sizes);
  }
  Tensor as_call(const Tensor& rows, size_t part, bool with_dim) const {
    Sizes sizes = call_shape(parts_[part], views_[0].shape[3]);
    if (!with_dim) sizes.pop_back();
    return torch::stable::reshape(rows, sizes);
  }

  /// Adds what a part found to a gradient, contiguous and like the input.
  void put_back(const Tensor& gradient, const Tensor& found, size_t part, int input) const {
    const Share share = of(part, input);
    const Tensor rows = torch::stable::contiguous(found);
    const TensorView view = output_view(gradient);
    tables::LongNetPlace place = place_of(share, view);
    // Heads that read the same key/value head come one after the other.
    const bool repeated = share.group > 1 && !share.all_heads && share.rate % share.group != 0;
    if (repeated) place.heads = 1;
    for (; place.first_head < share.heads; place.first_head += place.heads) add(place, view, rows);
  }

 private:
  static constexpr const char* kNames[] = {"q", "k", "v"};

  int64_t batch() const { return views_[0].shape[0]; }

  template <class Work>
  void run(const Work& work) const {
    check(kernels::each(work, scope_.arch(), scope_.execution()));
  }

  /// Residues of as many tokens share a call where a dimension is left for them.
  void add_branch(int64_t w, int64_t r) {
    const int64_t group = heads() / views_[1].shape[1];
    Share before{};
    for (int64_t residue = 0; residue < std::min(r, heads()); ++residue) {
      const Share own{w,
                      r,
                      residue,
                      1,
                      per_segment(w, r, residue),
                      (heads() - residue + r - 1) / r,
                      tokens_of(w, r, residue, tokens()),
                      1,
                      false};
      if (own.tokens < 1) continue;
      const bool free = batch() == 1 || (own.heads == 1 && !lengths_);
      const bool regular = group % r == 0 || (r % group == 0 && (group == 1 || residue % group > 0));
      if (free && regular && before.residues && before.heads == own.heads && before.tokens == own.tokens &&
          before.per_segment == own.per_segment)
        ++parts_.back().residues;
      else
        parts_.push_back(own);
      before = own;
    }
  }

  /// The part of queries, or of keys and values.
  Share of(size_t part, int input) const {
    Share share = parts_[part];
    if (input == 0) return share;
    share.group = heads() / views_[1].shape[1];
    share.all_heads = share.group > 1 && share.group % share.rate == 0;
    if (share.all_heads) share.heads = views_[1].shape[1];
    return share;
  }

  bool as_heads(const Share& share) const { return share.heads == 1 && !lengths_; }

  Sizes call_shape(const Share& share, int64_t dim) const {
    if (as_heads(share)) return {batch(), share.residues, share.tokens, dim};
    return {batch() * share.residues, share.heads, share.tokens, dim};
  }

  /// Whether tokens and heads come in even steps.
  bool steady(const Share& share) const {
    return (share.segment % share.rate == 0 || share.segment >= tokens()) &&
           (share.all_heads || share.rate % share.group == 0);
  }

  tables::LongNetPlace place_of(const Share& share, const TensorView& view) const {
    return {share, batch(),    view.shape[3], {view.stride[0], view.stride[1], view.stride[2], view.stride[3]},
            0,     share.heads};
  }

  Tensor copied(const Share& share, int input) const {
    const TensorView& view = views_[input];
    const Tensor rows =
        torch::stable::new_empty(inputs_[input], {batch(), share.residues, share.heads, share.tokens, view.shape[3]});
    const auto take = [&]<class Word>(Word) {
      run(tables::LongNetTake<Word>{place_of(share, view), static_cast<const Word*>(view.data),
                                    static_cast<Word*>(rows.mutable_data_ptr())});
    };
    const size_t bytes = inputs_[input].element_size();
    bytes == 2 ? take(uint16_t()) : bytes == 4 ? take(uint32_t()) : take(uint64_t());
    return rows;
  }

  void add(const tables::LongNetPlace& place, const TensorView& view, const Tensor& rows) const {
    const auto work = [&]<class Element, class Wide>() {
      run(tables::LongNetAdd<Element, Wide>{place, static_cast<Element*>(view.data),
                                            static_cast<const Element*>(rows.const_data_ptr())});
    };
    switch (view.dtype) {
      case DType::float32:
        return work.operator()<float, float>();
      case DType::float16:
        return work.operator()<half_t, float>();
      case DType::bfloat16:
        return work.operator()<bfloat16_t, float>();
      case DType::float64:
        return work.operator()<double, double>();
      default:
        type_error("q must have a floating dtype");
    }
  }

  Device device_;
  ExecutionScope scope_;
  Tensor inputs_[3];
  TensorView views_[3];
  std::optional<Tensor> lengths_;
  bool causal_;
  double scale_;
  bool deterministic_;
  std::vector<Share> parts_;
};

std::tuple<Tensor, Tensor, Tensor> longnet(Tensor q, Tensor k, Tensor v, std::optional<Tensor> lengths,
                                           std::vector<int64_t> segments, bool causal, double scale,
                                           bool deterministic) {
  const LongNet call(q, k, v, lengths, segments, causal, scale, deterministic);
  std::vector<Tensor> outs, rows, flat_outs, flat_rows;
  for (size_t n = 0; n < call.count(); ++n) {
    const ForwardResult result =
        attention_forward(call.taken(n, 0), call.taken(n, 1), call.taken(n, 2), call.problem(n));
    outs.push_back(call.as_rows(result.out, n, {q.size(3)}));
    rows.push_back(call.as_rows(result.statistic, n, {}));
    flat_outs.push_back(torch::stable::reshape(outs.back(), {-1}));
    flat_rows.push_back(torch::stable::reshape(rows.back(), {-1}));
  }
  if (call.empty()) {
    const bool wide = q.scalar_type() == ScalarType::Double;
    return {torch::stable::new_zeros(q, q.sizes()), torch::stable::new_empty(q, {0}),
            torch::stable::new_empty(q, {0}, wide ? ScalarType::Double : ScalarType::Float)};
  }
  return {longnet_mix(outs, rows, call.numbers(), call.heads(), call.tokens()), aten::joined(flat_outs),
          aten::joined(flat_rows)};
}

std::tuple<Tensor, Tensor, Tensor> longnet_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor outs, Tensor rows,
                                                    std::optional<Tensor> lengths, std::vector<int64_t> segments,
                                                    bool causal, double scale, bool deterministic) {
  const LongNet call(q, k, v, lengths, segments, causal, scale, deterministic);
  const Tensor inputs[] = {q, k, v};
  Tensor gradients[3];
  for (int n = 0; n < 3; ++n) gradients[n] = torch::stable::new_zeros(inputs[n], inputs[n].sizes());
  if (call.empty()) return {gradients[0], gradients[1], gradients[2]};

  std::vector<Tensor> part_outs, part_rows;
  int64_t begin = 0;
  outs = torch::stable::contiguous(outs);
  rows = torch::stable::contiguous(rows);
  for (size_t n = 0; n < call.count(); ++n) {
    const Sizes sizes = call.shape(n);
    const int64_t count = sizes[0] * sizes[1] * sizes[2] * sizes[3], dim = q.size(3);
    if ((begin + count) * dim > outs.numel() || begin + count > rows.numel())
      value_error("outs and rows are not those of the forward");
    part_outs.push_back(call.as_call(torch::stable::narrow(outs, 0, begin * dim, count * dim), n, true));
    part_rows.push_back(call.as_rows(torch::stable::narrow(rows, 0, begin, count), n, {}));
    begin += count;
  }
  const std::vector<Tensor> of_outs = longnet_mix_backward(grad, part_rows, call.numbers());
  for (size_t n = 0; n < call.count(); ++n) {
    const Tensor row = call.as_call(part_rows[n], n, false);
    const Tensor saved = torch::stable::new_empty(row, {0, row.size(0), row.size(1), row.size(2)});
    const Gradients own =
        attention_backward({call.as_call(of_outs[n], n, true), std::nullopt}, call.taken(n, 0), call.taken(n, 1),
                           call.taken(n, 2), {part_outs[n], row, saved}, call.problem(n));
    const Tensor found[] = {own.q, own.k, own.v};
    for (int input = 0; input < 3; ++input) call.put_back(gradients[input], found[input], n, input);
  }
  return {gradients[0], gradients[1], gradients[2]};
}

}  // namespace
}  // namespace splash::torch_ops

#define SPLASH_LONGNET_OPTIONS "Tensor? lengths, int[] segments, bool causal, float scale, bool deterministic"

STABLE_TORCH_LIBRARY_FRAGMENT(splash, library) {
  library.def("longnet(Tensor q, Tensor k, Tensor v, " SPLASH_LONGNET_OPTIONS
              ") -> (Tensor out, Tensor outs, Tensor rows)");
  library.def(
      "longnet_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor outs, Tensor rows, " SPLASH_LONGNET_OPTIONS
      ") -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(splash, CPU, library) {
  library.impl("longnet", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet)>);
  library.impl("longnet_backward", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet_backward)>);
}

STABLE_TORCH_LIBRARY_IMPL(splash, CUDA, library) {
  library.impl("longnet", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet)>);
  library.impl("longnet_backward", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::longnet_backward)>);
}
