// Dispatch with instances that only write down that they ran: what a call launches, in which order, and that nothing
// runs before everything is known to.
#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "kernels/dispatch.hpp"
#include "kernels/plan.hpp"
#include "kernels/table.hpp"
#include "kernels/text.hpp"
#include "splash/normalizers/elastic.hpp"
#include "splash/normalizers/softmax_sink.hpp"
#include "splash/patterns/big_bird.hpp"
#include "splash/patterns/compose.hpp"
#include "splash/patterns/dilated.hpp"
#include "splash/patterns/fixed.hpp"
#include "splash/patterns/full.hpp"
#include "splash/patterns/strided.hpp"

namespace {

using namespace splash;
using namespace splash::kernels;

struct Launch {
  std::string what;
  bool joins;  ///< goes on from, or adds to, what is there
};
std::vector<Launch> launches;

void write_down(const char* key, const AttentionInputs& in, const Layout& layout, bool joins) {
  std::string what = key;
  for (int t = 0; t < in.pattern.count; ++t)
    what.append(t ? " & " : ": ").append(kernels::patterns()[in.pattern.terms[t].kind].name);
  if (layout.residues > 1) what += join(" / ", layout.residues);
  launches.push_back({what, joins});
}

constexpr char kExact[] = "exact", kAny[] = "any";

template <const char* Name>
Status forward(const ForwardArguments& args, const Execution&) {
  write_down(Name, args.in, args.layout, args.join.accumulate);
  return {};
}

template <const char* Name>
Status backward(const BackwardArguments& args, const Execution&) {
  write_down(Name, args.in, args.layout, args.join.adds_queries || args.join.adds_keys);
  return {};
}

using Sink = splash::normalizers::SoftmaxSink<float>;
using Softmax = splash::normalizers::Softmax<float>;
namespace p = splash::patterns;
using Any = p::Conjunction<p::AnyOf<p::Full, p::SlidingWindow, p::BlockDiagonal, p::Dilated, p::DilatedHeads,
                                    p::Strided, p::Fixed, p::Staircase, p::BigBird>>;

template <class Pattern, Spans Span = Spans::any>
std::vector<Instance> pair(const char* pattern) {
  constexpr const char* kName = std::is_same_v<Pattern, Any> ? "any" : "exact";
  const auto key = [&](Pass pass) {
    return Key{pass, Arch::sm90, pattern, "softmax_sink", DType::bfloat16, 128, Span};
  };
  if (std::strcmp(kName, "any") == 0)
    return {sm90_row<Pattern, Sink, 128, Span>(key(Pass::forward), forward<kAny>),
            sm90_row<Pattern, Sink, 128, Span>(key(Pass::backward), backward<kAny>)};
  return {sm90_row<Pattern, Sink, 128, Span>(key(Pass::forward), forward<kExact>),
          sm90_row<Pattern, Sink, 128, Span>(key(Pass::backward), backward<kExact>)};
}

std::vector<Instance> all_rows() {
  std::vector<Instance> rows;
  for (const auto& more :
       {pair<p::SlidingWindow>("sliding_window"), pair<p::BlockDiagonal>("block_diagonal"),
        pair<p::Staircase>("staircase"), pair<p::BigBird, Spans::lists64>("big_bird"), pair<Any>("any")})
    rows.insert(rows.end(), more.begin(), more.end());
  return rows;
}

std::vector<Instance> table = all_rows();

}  // namespace

namespace splash::kernels {

std::span<const Arch> gpu_archs() {
  static constexpr Arch archs[] = {Arch::sm90};
  return archs;
}

std::span<const Instance> instances() { return table; }

std::span<const NormalizerInfo> normalizers() {
  using splash::normalizers::Elastic;
  static constexpr NormalizerInfo rows[] = {normalizer<Softmax>({"softmax", "softmax", ""}),
                                            normalizer<Sink>({"softmax_sink", "softmax_sink", "softmax"}),
                                            normalizer<Elastic<float>>({"elastic", "elastic", ""})};
  return rows;
}

std::span<const PatternInfo> patterns() {
  // Names of the table's own: the library knows its patterns by type.
  static constexpr PatternInfo rows[] = {pattern<p::Full>("full", 0, 0),
                                         pattern<p::SlidingWindow>("sliding_window", 2, 0),
                                         pattern<p::BlockDiagonal>("block_diagonal", 2, 0),
                                         pattern<p::Dilated>("dilated", 3, 0),
                                         pattern<p::DilatedHeads>("dilated_heads", 2, 1),
                                         pattern<p::Strided>("strided", 2, 0),
                                         pattern<p::Fixed>("fixed", 2, 0),
                                         pattern<p::Staircase>("staircase", 3, 0),
                                         pattern<p::BigBird>("big_bird", 4, 2)};
  return rows;
}

}  // namespace splash::kernels

namespace {

struct Problem {
  AttentionInputs in;
  std::vector<float> sinks = std::vector<float>(8);
  std::vector<int64_t> dilations;
  std::vector<int32_t> tensor;

  Problem(const char* pattern, std::initializer_list<int64_t> ints, int64_t length = 4096) {
    const TensorView view{this, DType::bfloat16, 4, {1, 8, length, 128}, {8 * length * 128, length * 128, 128, 1}};
    in.q = in.k = in.v = view;
    add(pattern, ints);
  }

  Problem& add(const char* pattern, std::initializer_list<int64_t> ints) {
    PatternTerm& term = in.pattern.terms[in.pattern.count++];
    term.kind = pattern_kind(pattern);
    for (const int64_t number : ints) term.ints[term.num_ints++] = number;
    return *this;
  }

  Problem& by_head(std::vector<int64_t> each) {
    dilations = std::move(each);
    tensor.assign(dilations.begin(), dilations.end());
    PatternTerm& term = in.pattern.terms[0];
    term.list = dilations.data();
    term.list_size = int64_t(dilations.size());
    term.num_tensors = 1;
    term.tensors[0] = {tensor.data(), DType::int32, 1, {term.list_size}, {1}};
    return *this;
  }

  /// What the last step stores into; nullptr for the tensors that it reads.
  Status run(Pass pass, const char* normalizer = "softmax", void* results = nullptr) {
    launches.clear();
    const TensorView statistic{this, DType::float32, 3, {1, 8, in.q.shape[2]}, {8 * in.q.shape[2], in.q.shape[2], 1}};
    TensorView saved = statistic, out = in.q;
    saved.rank = 4;
    saved.shape[0] = 0, saved.shape[1] = 1, saved.shape[2] = 8, saved.shape[3] = in.q.shape[2];
    saved.stride[0] = saved.stride[1] = 8 * in.q.shape[2], saved.stride[2] = in.q.shape[2], saved.stride[3] = 1;
    if (results) out.data = results;
    const std::string before(reinterpret_cast<const char*>(&in), sizeof(in));
    Status status;
    if (pass == Pass::forward) {
      ForwardArguments args;
      args.in = in;
      args.out = out;
      args.statistic = statistic;
      args.saved = saved;
      status = attention_forward(args, normalizer, Arch::sm90, {});
      check::that(std::memcmp(&args.in, before.data(), sizeof(in)) == 0, "the caller's problem is as it was");
    } else {
      BackwardArguments args;
      args.in = in;
      args.out = args.grad_out = args.grad_q = args.grad_k = in.q;
      args.grad_v = out;
      args.statistic = statistic;
      args.saved = saved;
      status = attention_backward(args, normalizer, Arch::sm90, {});
    }
    return status;
  }

  Call call(Pass pass, Arch arch = Arch::sm90) const { return {pass, arch, in, *general_normalizer("softmax"), {}}; }
};

std::string told() {
  std::string text;
  for (const Launch& launch : launches) text += (text.empty() ? "" : "; ") + launch.what + (launch.joins ? " +" : "");
  return text;
}

void expect(Problem problem, Pass pass, const std::string& wanted) {
  const Status status = problem.run(pass);
  check::that(status.ok(), "%s: refused: %s", wanted.c_str(), status.reason);
  check::that(told() == wanted, "launched '%s', not '%s'", told().c_str(), wanted.c_str());
}

void check_order() {
  expect({"full", {}}, Pass::forward, "exact: sliding_window");
  expect(Problem("strided", {256, 64}).add("full", {}), Pass::forward,
         "exact: sliding_window / 64; exact: sliding_window +");
  expect({"strided", {256, 64}}, Pass::backward, "exact: sliding_window / 64; exact: sliding_window +");
  expect({"fixed", {128, 16}}, Pass::forward, "exact: block_diagonal; exact: staircase +");
  expect({"fixed", {128, 16}}, Pass::backward, "exact: block_diagonal; exact: staircase +");
  // Runs of 24 keys fill no tile of the staircase: nothing of it may run.
  expect({"fixed", {128, 24}}, Pass::forward, "any: fixed");
  expect({"fixed", {128, 24}}, Pass::backward, "any: fixed");
  expect({"dilated", {512, 8, 1}}, Pass::forward, "exact: sliding_window / 8");
  expect(Problem("dilated_heads", {64, 1}).by_head({1, 1, 2, 2, 1, 1, 2, 2}), Pass::forward,
         "exact: sliding_window; exact: sliding_window / 2; exact: sliding_window; exact: sliding_window / 2");
}

/// Without the rows that `drop` names, the call is refused before anything ran.
template <class Drop>
void check_refusal(Problem problem, Pass pass, Drop drop, const char* normalizer = "softmax") {
  const std::vector<Instance> whole = table;
  std::erase_if(table, drop);
  // A thread remembers the instances that it found.
  std::thread([&] {
    const Status status = problem.run(pass, normalizer);
    check::that(status.code == StatusCode::no_kernel, "'%s' is no refusal", status.reason);
    check::that(launches.empty(), "ran '%s' and was refused then", told().c_str());
  }).join();
  table = whole;
}

void check_refusals() {
  const auto second = [](const Instance& row) { return row.key.pattern == "any" || row.key.pattern == "staircase"; };
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    const int64_t sizes[] = {16, 24};
    for (const int64_t summary : sizes) check_refusal(Problem("fixed", {128, summary}), pass, second);
    check_refusal(Problem("dilated_heads", {64, 1}).by_head({1, 2, 3, 4, 5, 6, 7, 8}), pass,
                  [](const Instance& row) { return row.key.pattern != "block_diagonal"; });
    check_refusal(Problem("full", {}), pass, [](const Instance&) { return true; });
  }
}

/// What an instance cannot load is refused by the plan, in the caller's words, before a step of several runs.
void check_fits() {
  alignas(16) char memory[32];
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    for (const int64_t summary : {int64_t(16), int64_t(24)}) {
      Problem fixed("fixed", {128, summary});
      const Status status = fixed.run(pass, "softmax", memory + 2);
      const char* name = pass == Pass::forward ? "out" : "grad_v";
      check::that(status.code == StatusCode::invalid_value &&
                      std::string(status.reason) == join(name,
                                                         " cannot be loaded on CUDA: its address is not a multiple "
                                                         "of 16 bytes; pass ",
                                                         name, ".clone()"),
                  "'%s'", status.reason);
      check::that(launches.empty(), "ran '%s' and was refused then", told().c_str());
    }
    Problem odd("fixed", {128, 16});
    for (TensorView* view : {&odd.in.q, &odd.in.k, &odd.in.v}) view->shape[3] = 100;
    const Status status = odd.run(pass);
    check::that(status.code == StatusCode::no_kernel && launches.empty(), "'%s'", status.reason);
    Problem expanded("strided", {256, 64});
    expanded.in.k.stride[2] = 0;
    check::that(expanded.run(pass).code == StatusCode::invalid_value && launches.empty(), "k's rows are expanded");
  }
}

void check_text() {
  Problem fixed("fixed", {128, 16});
  const Plan plan = plan_attention(fixed.call(Pass::forward));
  const std::string text = to_string(plan, fixed.call(Pass::forward));
  check::that(plan.steps.size() == 2 && std::count(text.begin(), text.end(), '\n') == 1, "'%s'", text.c_str());
  for (const char* part : {"block_diagonal(128, 1)", "staircase(128, 16, 0), of 512 keys in runs of 16, merged with",
                           "forward on sm90, pattern staircase"})
    check::that(text.find(part) != std::string::npos, "'%s' has no '%s'", text.c_str(), part);
  const Plan refused = plan_attention(fixed.call(Pass::forward, Arch(80)));
  const std::string why = to_string(refused, fixed.call(Pass::forward, Arch(80)));
  check::that(refused.steps.empty() && why.starts_with("no compiled instance"), "'%s'", why.c_str());
}

/// The kernels of a backward that a text names, one a step.
void check_kernels(const Problem& problem, bool deterministic, bool learns, const std::vector<std::string>& wanted) {
  const Call call = problem.call(Pass::backward);
  std::string text = to_string(plan_attention(call), call, deterministic, learns) + "\n";
  std::vector<std::string> found;
  for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
    const std::string line = text.substr(0, end);
    found.push_back(line.substr(line.rfind(": ") + 2));
  }
  check::that(found == wanted, "'%s', not '%s'", found.front().c_str(), wanted.front().c_str());
}

void check_strategies() {
  const std::string sweeps = "two sweeps, dQ and then dK and dV", fused = "one fused sweep",
                    closed = "one sweep over closed pieces";
  check_kernels({"full", {}}, false, false, {fused});
  check_kernels({"full", {}}, true, false, {sweeps});
  check_kernels({"full", {}}, false, true, {sweeps});
  check_kernels({"sliding_window", {40, 0}}, false, false, {sweeps});
  check_kernels({"full", {}, 128}, true, false, {closed});
  check_kernels({"block_diagonal", {64, 0}}, false, false, {closed});
  check_kernels({"fixed", {128, 16}}, false, false, {closed, sweeps});
  check_kernels({"full", {}, 0}, false, false, {"zeros"});
}

/// The same through the C interface, and what it makes of arguments that make no sense.
void check_c_interface() {
  Problem fixed("fixed", {128, 16});
  const int64_t ints[] = {128, 16};
  splash_call described{};
  described.pass = "backward";
  described.arch = "sm90";
  described.q = described.k = described.v = fixed.in.q;
  described.pattern = "fixed";
  described.ints = ints;
  described.num_ints = 2;
  described.normalizer = "softmax";
  described.scale = 1.0;
  const Call call = fixed.call(Pass::backward);
  const std::string wanted = to_string(plan_attention(call), call), found = splash_plan(&described);
  check::that(found == wanted, "'%s', not '%s'", found.c_str(), wanted.c_str());
  // Packed tokens, of which the problem has a view of four dimensions.
  Problem packed("fixed", {128, 16});
  const int32_t ends[] = {0, 1000, 4096};
  packed.in.q.stride[1] = 128, packed.in.q.stride[2] = 8 * 128;
  packed.in.k = packed.in.v = packed.in.q;
  packed.in.positions.cu_queries = packed.in.positions.cu_keys = ends;
  packed.in.positions.sequences = 2;
  packed.in.positions.max_queries = packed.in.positions.max_keys = 3096;
  const Call of_packed = packed.call(Pass::backward);
  splash_call tokens = described;
  tokens.q = tokens.k = tokens.v = {packed.in.q.data, DType::bfloat16, 3, {4096, 8, 128}, {8 * 128, 128, 1}};
  tokens.positions = packed.in.positions;
  const std::string wanted_of_packed = to_string(plan_attention(of_packed), of_packed);
  const std::string found_of_packed = splash_plan(&tokens);
  check::that(found_of_packed == wanted_of_packed && found_of_packed != wanted, "'%s', not '%s'",
              found_of_packed.c_str(), wanted_of_packed.c_str());
  const auto refuses = [&](const char* text, auto change) {
    splash_call changed = described;
    change(changed);
    check::that(std::string(splash_plan(&changed)).find(text) != std::string::npos, "'%s'", splash_plan(&changed));
  };
  refuses("unknown term 'fix'", [](splash_call& call) { call.pattern = "fix"; });
  refuses("pattern_ints has 1 numbers; pattern 'fixed' takes 2", [](splash_call& call) { call.num_ints = 1; });
  refuses("normalizer is 'soft'", [](splash_call& call) { call.normalizer = "soft"; });
  refuses("has 1 tensors; normalizer 'softmax' takes 0", [](splash_call& call) { call.num_parameters = 1; });
  refuses("k has shape", [](splash_call& call) { call.k.shape[3] = 64; });
  refuses("q has 3 dimensions", [&](splash_call& call) { call.q = tokens.q; });
  refuses("unknown arch gpu", [](splash_call& call) { call.arch = "gpu"; });
  refuses("unknown pass both", [](splash_call& call) { call.pass = "both"; });
  refuses("its address is not a multiple of 16 bytes; pass v.clone()",
          [](splash_call& call) { call.v.data = reinterpret_cast<void*>(8); });
}

}  // namespace

int main() {
  check_order();
  check_refusals();
  check_fits();
  check_text();
  check_strategies();
  check_c_interface();
  return check::summary("test_plan");
}
