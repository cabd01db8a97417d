// Brute force of the calls that a call on a GPU is made of: walked as the kernels walk them, they keep every score that
// the pattern keeps just once, and nothing else.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "kernels/parts.hpp"
#include "kernels/table.hpp"
#include "splash/device/schedule.hpp"
#include "splash/patterns/block_diagonal.hpp"
#include "splash/patterns/causal.hpp"
#include "splash/patterns/compose.hpp"
#include "splash/patterns/dilated.hpp"
#include "splash/patterns/fixed.hpp"
#include "splash/patterns/full.hpp"
#include "splash/patterns/staircase.hpp"
#include "splash/patterns/streaming.hpp"
#include "splash/patterns/strided.hpp"

namespace splash::kernels {

std::span<const Arch> gpu_archs() {
  static constexpr Arch archs[] = {Arch::sm90};
  return archs;
}

std::span<const Instance> instances() { return {}; }
std::span<const NormalizerInfo> normalizers() { return {}; }
std::span<const PatternInfo> patterns() {
  using namespace splash::patterns;
  static constexpr PatternInfo rows[] = {pattern<SlidingWindow>("sliding_window", 2, 0),
                                         pattern<BlockDiagonal>("block_diagonal", 2, 0),
                                         pattern<Dilated>("dilated", 3, 0),
                                         pattern<DilatedHeads>("dilated_heads", 2, 1),
                                         pattern<Strided>("strided", 2, 0),
                                         pattern<Fixed>("fixed", 2, 0),
                                         pattern<Staircase>("staircase", 3, 0),
                                         pattern<Streaming>("streaming", 2, 0)};
  return rows;
}

}  // namespace splash::kernels

namespace {

using namespace splash;
using Any = patterns::Conjunction<
    patterns::AnyOf<patterns::SlidingWindow, patterns::BlockDiagonal, patterns::Dilated, patterns::DilatedHeads,
                    patterns::Strided, patterns::Fixed, patterns::Staircase, patterns::Streaming>>;

struct Call {
  AttentionInputs in;
  std::vector<int32_t> lengths, cu_queries, cu_keys;
  std::vector<int64_t> dilations;
  std::vector<int32_t> tensor;  ///< of the same
  std::string name;
};

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  int below(int n) { return int(random_() % unsigned(n)); }
  int64_t one_of(std::initializer_list<int64_t> values) { return values.begin()[below(int(values.size()))]; }

 private:
  std::mt19937 random_;
};

void add_term(Call& call, const char* name, std::initializer_list<int64_t> ints) {
  PatternTerm& term = call.in.pattern.terms[call.in.pattern.count++];
  term.kind = kernels::pattern_kind(name);
  for (const int64_t number : ints) term.ints[term.num_ints++] = number;
  call.name += std::string(call.name.empty() ? "" : " & ") + name;
  for (const int64_t number : ints) call.name += " " + std::to_string(number);
}

void add_patterns(Draw& draw, Call& call) {
  const int64_t stride = draw.one_of({1, 2, 3, 7, 8, 16, 20});
  const int kind = draw.below(5);
  if (kind < 2) {
    add_term(call, "strided", {draw.one_of({0, 1, 2, 5, 16, 40, 300}), stride});
  } else if (kind < 4) {
    add_term(call, "fixed", {stride, draw.one_of({0, 1, stride / 2, stride - 1, stride})});
  } else {
    for (int64_t head = 0; head < call.in.q.shape[1]; ++head) call.dilations.push_back(draw.one_of({1, 3, 3, stride}));
    add_term(call, "dilated_heads", {draw.one_of({1, 2, 9}), draw.below(2)});
    call.tensor.assign(call.dilations.begin(), call.dilations.end());
    PatternTerm& term = call.in.pattern.terms[0];
    term.list = call.dilations.data();
    term.list_size = int64_t(call.dilations.size());
    term.num_tensors = 1;
    term.tensors[0] = {call.tensor.data(), DType::int32, 1, {term.list_size}, {1}};
  }
  const int more = draw.below(6);
  if (more == 0) add_term(call, "sliding_window", {draw.one_of({0, 1, 15, 70, -1}), draw.one_of({0, 9, -1})});
  if (more == 1) add_term(call, "sliding_window", {-1, 0});
  if (more == 2) add_term(call, "streaming", {3, 60});
}

void place(Draw& draw, Call& call) {
  AttentionInputs& in = call.in;
  Positions& p = in.positions;
  const int queries = int(in.q.shape[2]), keys = int(in.k.shape[2]);
  p.k_start = draw.one_of({0, 0, 5, -23, 64});
  p.q_start = p.k_start + keys - queries;
  switch (draw.below(6)) {
    case 0:
      p.q_start += draw.below(80) - 40;
      break;
    case 1:
      if (queries == keys) {
        call.lengths = {draw.below(keys + 20), draw.below(keys)};
        p.lengths = call.lengths.data();
      }
      break;
    case 2:
      call.lengths = {draw.below(keys + 1), draw.below(keys + 1)};
      p.kv_lengths = call.lengths.data();
      break;
    case 3:
      in.q.shape[0] = in.k.shape[0] = 1;
      call.cu_queries = {0, draw.below(queries + 1), queries};
      call.cu_keys = {0, draw.below(keys + 1), keys};
      p.cu_queries = call.cu_queries.data();
      p.cu_keys = call.cu_keys.data();
      p.sequences = 2;
      p.max_queries = queries;
      p.max_keys = keys;
  }
}

Call random_call(unsigned seed) {
  Draw draw(seed);
  Call call;
  AttentionInputs& in = call.in;
  const int group = 1 + draw.below(3), kv_heads = 1 + draw.below(2);
  in.q.shape[0] = in.k.shape[0] = 2;
  in.q.shape[1] = int64_t(group) * kv_heads;
  in.k.shape[1] = kv_heads;
  in.k.shape[2] = 1 + draw.below(400);
  in.q.shape[2] = draw.below(2) ? in.k.shape[2] : 1 + draw.below(200);
  in.q.shape[3] = in.k.shape[3] = 64;
  in.q.stride[1] = 64;
  add_patterns(draw, call);
  place(draw, call);
  return call;
}

/// How often each (batch, head, row, column) of the tensors is kept, and how often each row is visited.
struct Counts {
  int64_t heads, queries, keys;
  std::vector<int> kept, rows;

  explicit Counts(const AttentionInputs& in)
      : heads(in.q.shape[1]),
        queries(in.q.shape[2]),
        keys(in.k.shape[2]),
        kept(size_t(in.q.shape[0] * heads * queries * keys)),
        rows(size_t(in.q.shape[0] * heads * queries)) {}
};

/// Row of the tensor of key c of a problem.
int64_t key_row(const Layout& layout, const collective::Place& keys, int64_t c) {
  const KeyRuns& runs = layout.key_runs;
  return runs.length > 0 ? runs.first + c / runs.length * runs.step + c % runs.length
                         : (keys.outer + c) * layout.residues + keys.inner;
}

/// As the blocks of threads of a kernel go over their pieces.
void walk(const AttentionInputs& in, const kernels::Scope& scope, Counts& counts) {
  const device::Blocks blocks{128, 64, 132};
  const collective::Geometry geometry = device::make_geometry(in, scope.layout);
  const collective::Schedule schedule = device::make_schedule(in, scope.layout, {}, geometry, blocks, false);
  const Any pattern = Any::from(scope.pattern);
  const int step = geometry.residues.divisor;
  for (int index = 0; index < schedule.items; ++index) {
    collective::WorkTile work;
    collective::make_work_tile(work, geometry, schedule, blocks.rows, index);
    const int64_t batch = in.positions.cu_queries ? 0 : work.frame.batch;
    for (int r = work.row_begin; r < std::min(work.row_begin + blocks.rows, work.row_count); ++r) {
      Frame frame = work.frame;
      const int query = r >> geometry.log2_pack;
      frame.head += r & (geometry.pack() - 1);
      const int64_t row = (batch * counts.heads + frame.head) * counts.queries +
                          int64_t(work.queries.outer + query) * step + work.queries.inner;
      ++counts.rows[size_t(row)];
      if (query >= frame.num_queries) continue;
      for (int c = 0; c < frame.num_keys; ++c) {
        if (!pattern.keep(frame, query, c)) continue;
        const int64_t column = key_row(scope.layout, work.keys, c);
        if (check::that(column >= 0 && column < counts.keys, "column %d outside of the tensor", int(column)))
          ++counts.kept[size_t(row * counts.keys + column)];
      }
    }
  }
}

/// As a sweep of the backward whose rows are keys goes over its pieces. Rows are counted once for each key/value head.
void walk_keys(const AttentionInputs& in, const kernels::Scope& scope, Counts& counts) {
  const device::Blocks blocks{128, 64, 132};
  const collective::Geometry geometry = device::make_geometry(in, scope.layout, true, false);
  const collective::Schedule schedule = device::make_schedule(in, scope.layout, {}, geometry, blocks, false);
  const Any pattern = Any::from(scope.pattern);
  for (int index = 0; index < schedule.items; ++index) {
    collective::WorkTile work;
    collective::make_work_tile(work, geometry, schedule, blocks.rows, index);
    const int64_t batch = in.positions.cu_queries ? 0 : work.frame.batch;
    for (int r = work.row_begin; r < std::min(work.row_begin + blocks.rows, work.row_count); ++r) {
      const int64_t key = collective::row_at(geometry, work.queries, r);
      if (!check::that(key == key_row(scope.layout, work.queries, r) && key >= 0 && key < counts.keys, "key %d",
                       int(key)))
        continue;
      ++counts.rows[size_t((batch * in.k.shape[1] + work.frame.head / geometry.group) * counts.keys + key)];
      if (r >= work.frame.num_queries) continue;
      for (int member = 0; member < geometry.members_end; member += geometry.member_step) {
        Frame frame = transposed(work.frame);
        frame.head += member;
        for (int query = 0; query < frame.num_queries; ++query) {
          if (!pattern.keep(frame, query, r)) continue;
          const int64_t row = int64_t(work.keys.outer + query) * scope.layout.residues + work.keys.inner;
          ++counts.kept[size_t(((batch * counts.heads + frame.head) * counts.queries + row) * counts.keys + key)];
        }
      }
    }
  }
}

/// Whether a call visits all rows of its heads once, and no others.
bool visits_rows(const HeadRange& range, const Counts& own, const Counts& all) {
  for (size_t n = 0; n < all.rows.size(); ++n) {
    const int64_t head = int64_t(n) / all.queries % all.heads - range.first;
    const bool its =
        range.count == 0 || (head >= 0 && head % range.step == 0 && head < int64_t(range.step) * range.count);
    if (own.rows[n] != (its ? all.rows[n] : 0)) return false;
  }
  return true;
}

int check_call(const Call& call) {
  const AttentionInputs& whole = call.in;
  const kernels::Scope folded{kernels::fold_bands(whole.pattern), {}};
  Counts wanted(whole), got(whole);
  walk(whole, folded, wanted);
  int calls = 0;
  for (kernels::Scope own : kernels::split_heads(whole, folded.pattern)) {
    kernels::fold_residues(own);
    std::vector<kernels::Scope> parts;
    if (own.layout.residues == 1) parts = kernels::split_keys(whole, own);
    if (parts.empty()) parts = {own};
    for (const kernels::Scope& part : parts) {
      Counts once(whole);
      walk(whole, part, once);
      check::that(visits_rows(part.layout.heads, once, wanted), "%s: rows", call.name.c_str());
      for (size_t n = 0; n < got.kept.size(); ++n) got.kept[n] += once.kept[n];
      ++calls;
    }
  }
  check::that(got.kept == wanted.kept, "%s: kept scores differ", call.name.c_str());
  return calls;
}

/// The calls that gradients are made of: by queries and by keys, each score once, and no sum begins with what nobody
/// wrote.
int check_gradients(const Call& call) {
  const AttentionInputs& whole = call.in;
  const kernels::Scope folded{kernels::fold_bands(whole.pattern), {}};
  Counts wanted(whole), of_queries(whole), of_keys(whole);
  walk(whole, folded, wanted);
  std::vector<int> key_rows(size_t(whole.k.shape[0] * whole.k.shape[1] * whole.k.shape[2]));
  Counts all_keys(whole);
  all_keys.rows = key_rows;
  walk_keys(whole, folded, all_keys);
  check::that(all_keys.kept == wanted.kept, "%s: kept scores by keys", call.name.c_str());
  std::vector<int> query_rows(wanted.rows.size());
  const auto calls = kernels::split_gradients(whole, folded.pattern, [](const kernels::Scope&) { return true; });
  for (const kernels::GradientPart& part : calls) {
    Counts queries(whole), keys(whole);
    keys.rows.assign(key_rows.size(), 0);
    walk(whole, part.scope, queries);
    walk_keys(whole, part.scope, keys);
    const auto merge = [&](std::vector<int>& written, const Counts& own, bool adds, const char* what) {
      bool right = true;
      for (size_t n = 0; n < written.size(); ++n) {
        if (own.rows[n]) right &= own.rows[n] == 1 && (written[n] > 0) == adds;
        written[n] += own.rows[n];
      }
      check::that(right, "%s: %s written twice, or added to nothing", call.name.c_str(), what);
    };
    merge(query_rows, queries, part.adds_queries, "queries");
    merge(key_rows, keys, part.adds_keys, "keys");
    for (size_t n = 0; n < wanted.kept.size(); ++n) {
      of_queries.kept[n] += queries.kept[n];
      of_keys.kept[n] += keys.kept[n];
    }
  }
  const auto all_written = [](const std::vector<int>& written, const Counts& all) {
    for (size_t n = 0; n < written.size(); ++n)
      if (all.rows[n] > 0 && written[n] == 0) return false;
    return true;
  };
  check::that(all_written(query_rows, wanted) && all_written(key_rows, all_keys), "%s: rows", call.name.c_str());
  check::that(of_queries.kept == wanted.kept, "%s: scores of queries differ", call.name.c_str());
  check::that(of_keys.kept == wanted.kept, "%s: scores of keys differ", call.name.c_str());
  return int(calls.size());
}

void check_counts() {
  const auto parts = [](const char* name, std::initializer_list<int64_t> ints, int64_t keys) {
    Call call;
    call.in.q.shape[0] = call.in.k.shape[0] = call.in.q.shape[1] = call.in.k.shape[1] = 1;
    call.in.q.shape[2] = call.in.k.shape[2] = keys;
    add_term(call, name, ints);
    return kernels::split_keys(call.in, {call.in.pattern, {}}).size();
  };
  check::that(parts("strided", {256, 64}, 32768) == 2, "a window, and one in each class");
  check::that(parts("strided", {256, 4096}, 8192) == 0, "classes of two keys are not worth it");
  check::that(parts("fixed", {128, 16}, 32768) == 2, "blocks, and their summaries");
  check::that(parts("fixed", {128, 128}, 32768) == 1, "all are summaries");
  check::that(parts("fixed", {128, 0}, 32768) == 1, "no summaries");
  check::that(parts("streaming", {16, 64}, 32768) == 0, "one pattern");
}

}  // namespace

int main() {
  check_counts();
  int several = 0, gradients = 0;
  for (unsigned seed = 0; seed < 600; ++seed) {
    const Call call = random_call(seed);
    several += check_call(call) > 1;
    gradients += check_gradients(call) > 1;
  }
  check::that(several > 150, "%d calls of several parts", several);
  check::that(gradients > 120, "%d gradients of several parts", gradients);
  return check::summary("parts");
}
