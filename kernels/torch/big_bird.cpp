// torch.ops.splash.big_bird_bits: BigBird's blocks by rows and by columns, drawn on the device.
#include <optional>

#include "errors.hpp"
#include "execution.hpp"
#include "kernels/tables.hpp"

namespace splash::torch_ops {
namespace {

namespace tables = patterns::tables;
using torch::headeronly::ScalarType;

/// Data of `count` int32 on the device, or nullptr.
const int32_t* int32_data(const std::optional<Tensor>& tensor, const char* name, int64_t count, const Device& device) {
  if (!tensor) return nullptr;
  const TensorView view = input_view(*tensor, name, device);
  if (view.dtype != DType::int32) type_error(name, " must be int32");
  if (view.rank != 1 || view.shape[0] != count || (count > 1 && view.stride[0] != 1))
    value_error(name, " must be contiguous, with ", count, " entries");
  return static_cast<const int32_t*>(view.data);
}

void require(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) value_error(name, " is ", value, "; expected ", least, " to ", most);
}

/// Of checked numbers no sum leaves int64, and no position int32.
void check_problem(const tables::BigBirdProblem& p) {
  require("block", p.block, 1, kUnlimited);
  require("window", p.window, 1, kUnlimited);
  require("first", p.first, 0, kUnlimited);
  require("last", p.last, 0, kUnlimited);
  require("random", p.random, 0, kUnlimited);
  require("length", p.length, -1, kMaxPosition + 1);
  require("batch", p.batches, 0, kMaxPosition);
  require("heads", p.heads, 0, kMaxPosition);
  require("queries", p.queries, 0, kUnlimited);
  require("keys", p.keys, 0, kUnlimited);
  require("q_start", p.q_start, -kUnlimited, kUnlimited);
  require("k_start", p.k_start, -kUnlimited, kUnlimited);
  require("rows", p.rows, 0, kUnlimited);
  require("columns", p.columns, 0, kUnlimited);
}

/// (words, drawn or words): of (batches, heads, lines, numbers) int32, without the batches where sequences are packed.
Tensor table(const Tensor& like, const tables::BigBirdProblem& p, int64_t lines, int64_t numbers) {
  std::vector<int64_t> sizes{p.batches, p.heads, lines, numbers};
  if (p.cu_queries) sizes.erase(sizes.begin());
  return torch::stable::new_empty(like, sizes, ScalarType::Int);
}

std::tuple<Tensor, Tensor> big_bird_bits(Tensor like, int64_t block, int64_t window, int64_t first, int64_t last,
                                         int64_t random, int64_t seed, bool per_head, bool causal, int64_t length,
                                         int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t q_start,
                                         int64_t k_start, std::optional<Tensor> lengths,
                                         std::optional<Tensor> kv_lengths, std::optional<Tensor> cu_seqlens_q,
                                         std::optional<Tensor> cu_seqlens_k, int64_t rows, int64_t columns,
                                         bool transpose) {
  const Device device = device_of(like);
  if (bool(cu_seqlens_q) != bool(cu_seqlens_k)) value_error("cu_seqlens_q and cu_seqlens_k come together");
  tables::BigBirdProblem p{block, window, first, last, random, seed, length, causal};
  p.batches = batch;
  p.heads = per_head && random > 0 ? heads : 1;
  p.queries = queries;
  p.keys = keys;
  p.q_start = q_start;
  p.k_start = k_start;
  p.lengths = int32_data(lengths, "lengths", batch, device);
  p.kv_lengths = int32_data(kv_lengths, "kv_lengths", batch, device);
  p.cu_queries = int32_data(cu_seqlens_q, "cu_seqlens_q", batch + 1, device);
  p.cu_keys = int32_data(cu_seqlens_k, "cu_seqlens_k", batch + 1, device);
  p.sequences = batch;
  p.rows = rows;
  p.columns = columns;
  check_problem(p);
  // Entries whose lengths say nothing have the same tables.
  const bool differ = p.kv_lengths || (p.lengths && length < 0);
  p.batches = differ ? batch : 1;

  const ExecutionScope scope(device, false);
  const auto run = [&](const auto& work) { check(kernels::each(work, scope.arch(), scope.execution())); };
  const auto data = [](const Tensor& tensor) { return static_cast<uint32_t*>(tensor.mutable_data_ptr()); };
  const Tensor by_row = table(like, p, p.row_lines(), tables::words_of(p.row_bits()));
  const Tensor drawn = table(like, p, p.row_lines(), p.draws());
  run(tables::BigBirdRows{p, static_cast<int32_t*>(drawn.mutable_data_ptr()), data(by_row)});
  if (transpose) {
    const Tensor by_column = table(like, p, p.column_lines(), tables::words_of(p.column_bits()));
    run(tables::BigBirdColumns{p, data(by_row), data(by_column)});
    return {by_row, by_column};
  }
  // The forward does not read it, and "every row may see it" is a right answer for every column.
  p.batches = p.heads = 1;
  const Tensor by_column = table(like, p, p.column_lines(), tables::words_of(p.column_bits()));
  torch::stable::fill_(by_column, -1);
  return {by_row, by_column};
}

}  // namespace
}  // namespace splash::torch_ops

STABLE_TORCH_LIBRARY_FRAGMENT(splash, library) {
  library.def(
      "big_bird_bits(Tensor like, int block, int window, int first, int last, int random, int seed, bool per_head, "
      "bool causal, SymInt length, SymInt batch, SymInt heads, SymInt queries, SymInt keys, SymInt q_start, "
      "SymInt k_start, Tensor? lengths, Tensor? kv_lengths, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt rows, "
      "SymInt columns, bool transpose) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(splash, CPU, library) {
  library.impl("big_bird_bits", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::big_bird_bits)>);
}

STABLE_TORCH_LIBRARY_IMPL(splash, CUDA, library) {
  library.impl("big_bird_bits", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::big_bird_bits)>);
}
