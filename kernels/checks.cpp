#include "kernels/checks.hpp"

#include <initializer_list>
#include <utility>

#include "kernels/text.hpp"
#include "splash/core/frame.hpp"

namespace splash::kernels {
namespace {

template <class... Parts>
Fault invalid_value(const Parts&... parts) {
  return {StatusCode::invalid_value, join(parts...)};
}

template <class... Parts>
Fault invalid_type(const Parts&... parts) {
  return {StatusCode::invalid_type, join(parts...)};
}

std::string shape_of(const TensorView& view) {
  std::string text;
  for (int n = 0; n < view.rank; ++n) text += join(n ? ", " : "", view.shape[n]);
  return join("(", text, ")");
}

Fault check_shape(const char* name, const TensorView& view, const TensorView& expected) {
  bool same = view.rank == expected.rank;
  for (int n = 0; same && n < view.rank; ++n) same = view.shape[n] == expected.shape[n];
  if (same) return {};
  return invalid_value(name, " has shape ", shape_of(view), "; expected ", shape_of(expected));
}

Fault check_shape(const char* name, const TensorView& view, std::initializer_list<int64_t> wanted) {
  TensorView expected;
  for (const int64_t extent : wanted) expected.shape[expected.rank++] = extent;
  return check_shape(name, view, expected);
}

Fault check_dtype(const char* name, const TensorView& view, DType wanted) {
  if (view.dtype == wanted) return {};
  return invalid_type(name, " has dtype ", name_of(view.dtype), "; expected ", name_of(wanted));
}

/// Like q: its dtype, the shape given, and neighbours along the last dimension.
Fault check_like(const char* name, const TensorView& view, const TensorView& q, std::initializer_list<int64_t> shape) {
  if (Fault fault = check_dtype(name, view, q.dtype)) return fault;
  if (Fault fault = check_shape(name, view, shape)) return fault;
  if (view.shape[view.rank - 1] > 1 && view.stride[view.rank - 1] != 1)
    return invalid_value(name, " has stride ", view.stride[view.rank - 1], " along its last dimension; expected 1 (",
                         name, ".contiguous() has it)");
  return {};
}

DType statistic_dtype(const TensorView& q) { return q.dtype == DType::float64 ? DType::float64 : DType::float32; }

Fault check_contiguous(const char* name, const TensorView& view) {
  int64_t stride = 1;
  for (int n = view.rank - 1; n >= 0; --n) {
    if (view.shape[n] > 1 && view.stride[n] != stride) return invalid_value(name, " is not contiguous");
    stride *= view.shape[n];
  }
  return {};
}

Fault check_statistics(const AttentionInputs& in, const TensorView& statistic, const TensorView& saved, int num_saved) {
  const TensorView& q = in.q;
  if (Fault fault = check_dtype("statistic", statistic, statistic_dtype(q))) return fault;
  if (Fault fault = check_shape("statistic", statistic, {q.shape[0], q.shape[1], q.shape[2]})) return fault;
  if (Fault fault = check_contiguous("statistic", statistic)) return fault;
  if (num_saved == 0) return {};
  if (Fault fault = check_dtype("saved", saved, statistic_dtype(q))) return fault;
  if (Fault fault = check_shape("saved", saved, {num_saved, q.shape[0], q.shape[1], q.shape[2]})) return fault;
  return check_contiguous("saved", saved);
}

/// Learned parameters: (Hq,), and a bias (Hq, distances).
Fault check_parameters(const char* name, const AttentionInputs& in, const TensorView (&parameters)[kMaxParameters],
                       const NormalizerInfo& info) {
  for (int p = 0; p < info.parameters; ++p) {
    const TensorView& view = parameters[p];
    const std::string which = join(name, "[", p, "]");
    if (Fault fault = check_dtype(which.c_str(), view, statistic_dtype(in.q))) return fault;
    const bool bias = info.bias && p + 1 == info.parameters;
    const int64_t distances = view.rank == 2 ? view.shape[1] : 0;
    if (Fault fault = bias ? check_shape(which.c_str(), view, {in.q.shape[1], distances})
                           : check_shape(which.c_str(), view, {in.q.shape[1]}))
      return fault;
    if (distances > kMaxPosition) return invalid_value(which, " has ", distances, " distances; that is too many");
    if (Fault fault = check_contiguous(which.c_str(), view)) return fault;
  }
  return {};
}

Fault check_normalizer(const AttentionInputs& in, const NormalizerInfo& info) {
  const NormalizerSpec& spec = in.normalizer;
  if (spec.num_floats != info.floats)
    return invalid_value("normalizer ", info.name, " takes ", info.floats, " numbers; got ", spec.num_floats);
  for (int n = 0; n < spec.num_floats; ++n) {
    const bool limited = info.above[n] != 0 || info.up_to[n] != 0;
    if (limited && !(spec.floats[n] > info.above[n] && spec.floats[n] <= info.up_to[n]))
      return invalid_value("normalizer ", info.name, " has number ", spec.floats[n], "; allowed are ", info.above[n],
                           " < number <= ", info.up_to[n]);
  }
  if (spec.num_parameters != info.parameters)
    return invalid_value("normalizer ", info.name, " takes ", info.parameters, " parameters; got ",
                         spec.num_parameters);
  return check_parameters("normalizer_parameters", in, spec.parameters, info);
}

Fault check_pattern(const AttentionInputs& in) {
  const PatternSpec& spec = in.pattern;
  if (spec.count < 0 || spec.count > kMaxTerms)
    return invalid_value("pattern has ", spec.count, " terms; allowed are up to ", kMaxTerms);
  for (int t = 0; t < spec.count; ++t) {
    const PatternTerm& term = spec.terms[t];
    if (term.kind < 0 || term.kind >= int(patterns().size()))
      return invalid_value("pattern term ", t, " has kind ", term.kind, "; the list has ", patterns().size());
    const PatternInfo& info = patterns()[term.kind];
    if (term.num_ints != info.ints || term.num_tensors != info.tensors)
      return invalid_value("pattern ", info.name, " takes ", info.ints, " numbers and ", info.tensors, " tensors; got ",
                           term.num_ints, " and ", term.num_tensors);
    if (!info.list && term.list_size != 0)
      return invalid_value("pattern ", info.name, " takes no list of numbers; got ", term.list_size, " of them");
    if (info.misfit)
      if (const char* why = info.misfit(term, in)) return invalid_value("pattern ", info.name, ": ", why);
  }
  return {};
}

/// `count` of them from position `first` on.
Fault check_place(const char* name, const char* what, int64_t first, int64_t count) {
  if (first >= -kMaxPosition && first <= kMaxPosition + 1 - count) return {};
  return invalid_value(name, ": the ", count, " ", what, " from position ", first, " on reach past +-", kMaxPosition,
                       ", the last positions");
}

/// The sequences of packed tokens have the positions of the longest one, and not of all tokens.
int64_t longest(const TensorView& view, const int32_t* ends, int64_t of_sequence) {
  if (!ends || of_sequence > view.shape[2]) return view.shape[2];
  return of_sequence < 0 ? 0 : of_sequence;
}

Fault check_positions(const AttentionInputs& in) {
  const Positions& positions = in.positions;
  const int64_t queries = longest(in.q, positions.cu_queries, positions.max_queries);
  if (Fault fault =
          check_place("k_start", "keys", positions.k_start, longest(in.k, positions.cu_keys, positions.max_keys)))
    return fault;
  // The last query stands at the last key, the first of which may be the only one.
  const bool by_keys = positions.cu_queries || positions.kv_lengths;
  if (Fault fault = by_keys && queries > 0 ? check_place("k_start", "queries up to the first key",
                                                         positions.k_start + 1 - queries, queries)
                                           : check_place("q_start", "queries", positions.q_start, queries))
    return fault;
  if (positions.lengths && in.q.shape[2] != in.k.shape[2])
    return invalid_value("lengths needs as many queries as keys; got ", in.q.shape[2], " and ", in.k.shape[2]);
  if (positions.lengths && positions.kv_lengths) return invalid_value("lengths and kv_lengths exclude each other");
  if (!positions.cu_queries != !positions.cu_keys)
    return invalid_value("cu_seqlens_q and cu_seqlens_k belong together; got one of them");
  if (!positions.cu_queries) return {};
  if (positions.lengths || positions.kv_lengths)
    return invalid_value(
        "packed sequences have lengths of their own; lengths and kv_lengths make no sense beside them");
  if (in.q.shape[0] != 1) return invalid_value("q has batch size ", in.q.shape[0], "; packed sequences have 1");
  if (positions.sequences < 0 || positions.sequences > kMaxPosition)
    return invalid_value("cu_seqlens_q tells of ", positions.sequences, " sequences");
  for (const int64_t longest : {positions.max_queries, positions.max_keys})
    if (longest < 0 || longest > kMaxPosition + 1)
      return invalid_value("max_seqlen is ", longest, "; allowed are 0 to ", kMaxPosition + 1);
  for (const auto& [name, tokens] : {std::pair{"q", in.q.shape[2]}, {"k", in.k.shape[2]}})
    if (tokens > kMaxPosition + 1)
      return invalid_value(name, " has ", tokens, " packed tokens; at most ", kMaxPosition + 1, " are possible");
  return {};
}

}  // namespace

Fault check_inputs(const AttentionInputs& in, const NormalizerInfo& normalizer) {
  const TensorView &q = in.q, &k = in.k;
  if (q.dtype > DType::float64)
    return invalid_type("q has dtype ", name_of(q.dtype), "; allowed are float16, bfloat16, float32, float64");
  if (q.rank != 4) return invalid_value("q has ", q.rank, " dimensions; expected 4 (batch, heads, queries, head_dim)");
  if (k.rank != 4) return invalid_value("k has ", k.rank, " dimensions; expected 4 (batch, heads, keys, head_dim)");
  if (q.shape[3] < 1) return invalid_value("q has head_dim 0");
  if (Fault fault = check_like("q", q, q, {q.shape[0], q.shape[1], q.shape[2], q.shape[3]})) return fault;
  if (Fault fault = check_like("k", k, q, {q.shape[0], k.shape[1], k.shape[2], q.shape[3]})) return fault;
  if (Fault fault = check_like("v", in.v, q, {q.shape[0], k.shape[1], k.shape[2], q.shape[3]})) return fault;
  if (k.shape[1] < 1 || q.shape[1] % k.shape[1] != 0)
    return invalid_value("q has ", q.shape[1], " heads, which is no multiple of k's ", k.shape[1]);
  if (!(in.scale > -0x1p126 && in.scale < 0x1p126))
    return invalid_value("scale is ", in.scale, "; expected a finite number below 2^126 in magnitude");
  if (Fault fault = check_positions(in)) return fault;
  if (Fault fault = check_normalizer(in, normalizer)) return fault;
  return check_pattern(in);
}

Fault check_forward(const ForwardArguments& arguments, const NormalizerInfo& normalizer, Arch arch) {
  const AttentionInputs& in = arguments.in;
  if (Fault fault = check_inputs(in, normalizer)) return fault;
  const auto& shape = in.q.shape;
  if (Fault fault = check_like("out", arguments.out, in.q, {shape[0], shape[1], shape[2], shape[3]})) return fault;
  return check_statistics(in, arguments.statistic, arguments.saved, normalizer.saved_on(arch));
}

Fault check_backward(const BackwardArguments& arguments, const NormalizerInfo& normalizer, Arch arch) {
  const AttentionInputs& in = arguments.in;
  if (Fault fault = check_inputs(in, normalizer)) return fault;
  const auto &q = in.q.shape, &k = in.k.shape;
  if (Fault fault = check_like("out", arguments.out, in.q, {q[0], q[1], q[2], q[3]})) return fault;
  if (Fault fault = check_like("grad_out", arguments.grad_out, in.q, {q[0], q[1], q[2], q[3]})) return fault;
  if (Fault fault = check_like("grad_q", arguments.grad_q, in.q, {q[0], q[1], q[2], q[3]})) return fault;
  if (Fault fault = check_like("grad_k", arguments.grad_k, in.q, {k[0], k[1], k[2], k[3]})) return fault;
  if (Fault fault = check_like("grad_v", arguments.grad_v, in.q, {k[0], k[1], k[2], k[3]})) return fault;
  if (arguments.grad_statistic.data) {
    const TensorView& gradient = arguments.grad_statistic;
    if (Fault fault = check_dtype("grad_statistic", gradient, statistic_dtype(in.q))) return fault;
    if (Fault fault = check_shape("grad_statistic", gradient, {q[0], q[1], q[2]})) return fault;
    if (Fault fault = check_contiguous("grad_statistic", gradient)) return fault;
  }
  if (Fault fault = check_parameters("grad_parameters", in, arguments.grad_parameters, normalizer)) return fault;
  for (int p = 0; p < normalizer.parameters; ++p)
    if (Fault fault = check_shape("grad_parameters", arguments.grad_parameters[p], in.normalizer.parameters[p]))
      return fault;
  return check_statistics(in, arguments.statistic, arguments.saved, normalizer.saved_on(arch));
}

}  // namespace splash::kernels
