// torch.ops.splash.mask_bits and its like: what patterns are to the kernels, made on the tensors' device. A graph holds
// one node for it, whatever the sizes, and needs no Python where it runs.
#include "kernels/tables.hpp"

#include <algorithm>

#include "aten.hpp"
#include "errors.hpp"
#include "execution.hpp"
#include "splash/patterns/index_causal.hpp"

namespace splash::torch_ops {
namespace {

namespace tables = patterns::tables;
using Sizes = std::vector<int64_t>;
using torch::headeronly::ScalarType;

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <class Work>
void run(const Work& work, const ExecutionScope& scope) {
  check(kernels::each(work, scope.arch(), scope.execution()));
}

Tensor empty_int32(const Tensor& like, const Sizes& sizes) {
  return torch::stable::new_empty(like, sizes, ScalarType::Int);
}

void require_sizes(const char* name, int64_t value) {
  if (value < 0 || value > kMaxPosition) value_error(name, " is ", value, "; expected 0 to 2**29 - 1");
}

/// A tensor of up to `rank` dimensions, with dimensions of size 1 before them.
TensorView padded_view(const Tensor& tensor, const char* name, const Device& device, int rank) {
  TensorView view = input_view(tensor, name, device);
  if (view.rank < 1 || view.rank > rank) value_error(name, " has ", view.rank, " dimensions; expected 1 to ", rank);
  const int missing = rank - view.rank;
  for (int d = rank - 1; d >= 0; --d) {
    view.shape[d] = d < missing ? 1 : view.shape[d - missing];
    view.stride[d] = d < missing ? 0 : view.stride[d - missing];
  }
  view.rank = rank;
  return view;
}

/// A bool mask that broadcasts to (B, H, rows, columns): its strides are 0 where it repeats itself.
TensorView mask_view(const Tensor& mask, const Device& device, int64_t rows, int64_t columns) {
  require_sizes("rows", rows);
  require_sizes("columns", columns);
  TensorView view = padded_view(mask, "mask", device, 4);
  if (view.dtype != DType::boolean) type_error("mask must be bool");
  const int64_t wanted[] = {rows, columns};
  for (int d = 2; d < 4; ++d) {
    if (view.shape[d] == wanted[d - 2]) continue;
    if (view.shape[d] != 1)
      value_error("mask has ", view.shape[d], d == 2 ? " rows" : " columns", "; expected ", wanted[d - 2], " or 1");
    view.shape[d] = wanted[d - 2];
    view.stride[d] = 0;
  }
  return view;
}

template <class Kept>
Tensor pack(Kept kept, const TensorView& grid, bool transpose, const Tensor& like, const ExecutionScope& scope) {
  const int line = transpose ? 3 : 2, bit = transpose ? 2 : 3;
  const Tensor words =
      empty_int32(like, {grid.shape[0], grid.shape[1], grid.shape[line], tables::words_of(grid.shape[bit])});
  run(tables::PackBits<Kept>{kept,
                             {grid.stride[0], grid.stride[1], grid.stride[line], grid.stride[bit]},
                             grid.shape[0],
                             grid.shape[1],
                             grid.shape[line],
                             grid.shape[bit],
                             data_of<uint32_t>(words),
                             transpose || grid.stride[bit] != 1},
      scope);
  return words;
}

struct Bits {
  Tensor by_row, by_column;
};

/// The bits of a grid by rows and by columns; without `transpose`, for those that do not read it, "every row may be
/// kept" stands for every column.
template <class Kept>
Bits pack_both(Kept kept, const TensorView& grid, bool transpose, const Tensor& like, const ExecutionScope& scope) {
  Bits bits{pack(kept, grid, false, like, scope), {}};
  if (transpose) {
    bits.by_column = pack(kept, grid, true, like, scope);
  } else {
    bits.by_column = empty_int32(like, {1, 1, grid.shape[3], tables::words_of(grid.shape[2])});
    torch::stable::fill_(bits.by_column, -1);
  }
  return bits;
}

std::tuple<Tensor, Tensor> mask_bits(Tensor mask, int64_t rows, int64_t columns, bool transpose) {
  const Device device = device_of(mask);
  const TensorView grid = mask_view(mask, device, rows, columns);
  const ExecutionScope scope(device, false);
  const Bits bits = pack_both(tables::KeptScores{static_cast<const uint8_t*>(grid.data)}, grid, transpose, mask, scope);
  return {bits.by_row, bits.by_column};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> with_bits(const Tensor& index, const Tensor& words, bool transpose,
                                                     const ExecutionScope& scope) {
  const Bits bits = pack_both(tables::KeptTiles{data_of<int32_t>(index)}, output_view(index), transpose, index, scope);
  return {bits.by_row, bits.by_column, index, words};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mask_tiles(Tensor mask, int64_t rows, int64_t columns, bool transpose) {
  const Device device = device_of(mask);
  TensorView grid = mask_view(mask, device, rows, columns);
  // What is the same for all rows, or columns, is in the tiles of one row, or column, of them.
  for (int d = 2; d < 4; ++d)
    if (grid.stride[d] == 0 && grid.shape[d] > 1) grid.shape[d] = tables::kTile;
  const auto& [batches, heads, own_rows, own_columns] = grid.shape;
  const ExecutionScope scope(device, false);
  const Sizes sizes{batches, heads, tables::tiles_of(own_rows), tables::tiles_of(own_columns)};
  const Tensor words = empty_int32(mask, {sizes[0] * sizes[1] * sizes[2] * sizes[3], tables::kTile, 2});
  Tensor index = empty_int32(mask, sizes);
  run(tables::PackTiles{{static_cast<const uint8_t*>(grid.data)},
                        {grid.stride[0], grid.stride[1], grid.stride[2], grid.stride[3]},
                        batches,
                        heads,
                        own_rows,
                        own_columns,
                        data_of<uint32_t>(words)},
      scope);
  run(tables::IndexTiles{data_of<const uint32_t>(words), batches * heads, own_rows, own_columns,
                         data_of<int32_t>(index)},
      scope);
  index = torch::stable::contiguous(
      aten::expand(index, {batches, heads, tables::tiles_of(rows), tables::tiles_of(columns)}));
  return with_bits(index, words, transpose, scope);
}

/// Compressed sparse rows, and the tensors that hold them.
struct Csr {
  Tensor offsets, columns;
  Sizes lead;
  tables::SparseRows rows;

  Csr(const Tensor& crow, const Tensor& col, int64_t rows_count, int64_t width, const Device& device) {
    require_sizes("rows", rows_count);
    require_sizes("columns", width);
    const auto dims = crow.sizes();
    if (dims.empty() || dims.size() > 3 || dims.back() != rows_count + 1)
      value_error("crow must have up to two leading dimensions, and rows + 1 offsets");
    const auto entries = col.sizes();
    if (entries.size() != dims.size() || !std::equal(dims.begin(), dims.end() - 1, entries.begin()))
      value_error("col must have crow's leading dimensions");
    input_view(col, "col", device);
    lead = Sizes(dims.begin(), dims.end() - 1);
    int64_t matrices = 1;
    for (const int64_t size : lead) matrices *= size;
    // Offsets that fall are made to rise: those of a device cannot be checked.
    offsets = torch::stable::contiguous(aten::running_max(torch::stable::to(crow, ScalarType::Long)));
    columns = torch::stable::contiguous(torch::stable::to(col, ScalarType::Long));
    rows = {
        data_of<const int64_t>(offsets), data_of<const int64_t>(columns), matrices, entries.back(), rows_count, width};
  }
};

Tensor mask_of_csr(Tensor crow, Tensor col, int64_t rows, int64_t columns) {
  const Device device = device_of(crow);
  const Csr csr(crow, col, rows, columns, device);
  const ExecutionScope scope(device, false);
  Sizes sizes = csr.lead;
  sizes.insert(sizes.end(), {rows, columns});
  const Tensor mask = torch::stable::new_zeros(crow, sizes, ScalarType::Bool);
  run(tables::DenseRows{csr.rows, data_of<uint8_t>(mask)}, scope);
  return mask;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> csr_tiles(Tensor crow, Tensor col, int64_t rows, int64_t columns,
                                                     bool transpose) {
  const Device device = device_of(crow);
  const Csr csr(crow, col, rows, columns, device);
  const ExecutionScope scope(device, false);
  Sizes sizes(2 - csr.lead.size(), 1);
  sizes.insert(sizes.end(), csr.lead.begin(), csr.lead.end());
  sizes.insert(sizes.end(), {tables::tiles_of(rows), tables::tiles_of(columns)});
  const int64_t entries = csr.rows.matrices * csr.rows.entries, tiles = sizes[0] * sizes[1] * sizes[2] * sizes[3];
  const bool by_entry = entries < tiles;
  const Tensor index = empty_int32(crow, sizes);
  const Tensor words =
      torch::stable::new_zeros(crow, Sizes{by_entry ? entries : tiles, tables::kTile, 2}, ScalarType::Int);
  run(tables::TileRows{csr.rows, by_entry, data_of<int32_t>(index), data_of<uint32_t>(words)}, scope);
  return with_bits(index, words, transpose, scope);
}

bool is_wide(const Tensor& index, const char* name) {
  switch (index.scalar_type()) {
    case ScalarType::Char:
    case ScalarType::Short:
    case ScalarType::Int:
    case ScalarType::Byte:
    case ScalarType::UInt16:
      return false;
    case ScalarType::Long:
    case ScalarType::UInt32:
      return true;
    default:
      type_error(name, " must have an integer dtype that int64 holds");
  }
}

/// (B or 1, H or 1, length or 1) of an index, contiguous.
Tensor three(const Tensor& index, const char* name, int64_t length, bool wide) {
  const auto dims = index.sizes();
  if (dims.empty() || dims.size() > 3) value_error(name, " has ", dims.size(), " dimensions; expected 1 to 3");
  if (dims.back() != length && dims.back() != 1)
    value_error(name, " has ", dims.back(), " entries; expected ", length, " or 1");
  Sizes sizes(3 - dims.size(), 1);
  sizes.insert(sizes.end(), dims.begin(), dims.end());
  const Tensor integers = torch::stable::to(index, wide ? ScalarType::Long : ScalarType::Int);
  return torch::stable::contiguous(torch::stable::reshape(integers, sizes));
}

Sizes lead_of(const Tensor& tensor) { return {tensor.size(0), tensor.size(1)}; }

/// `values` and `of` as ranks among `of`. Tensors whose batches and heads are not all of `lead` stay so where they can.
void rank(Tensor& values, Tensor& of, const Sizes& lead, bool right) {
  Tensor ordered = aten::sorted(of);
  of = aten::search(ordered, of, right);
  if (ordered.size(0) == 1 && ordered.size(1) == 1) {
    ordered = torch::stable::reshape(ordered, {ordered.size(2)});
  } else if (lead_of(ordered) != lead || lead_of(values) != lead) {
    ordered = torch::stable::contiguous(aten::expand(ordered, {lead[0], lead[1], -1}));
    values = torch::stable::contiguous(aten::expand(values, {lead[0], lead[1], -1}));
  }
  values = aten::search(ordered, values, right);
}

Tensor ranges_of(const Tensor& indices, const ExecutionScope& scope) {
  tables::IndexRanges work{data_of<const int32_t>(indices), indices.size(0) * indices.size(1), indices.size(2),
                           patterns::IndexCausal::kGroup, nullptr};
  const Tensor ranges = empty_int32(indices, {indices.size(0), indices.size(1), work.groups(), 2});
  work.ranges = data_of<int32_t>(ranges);
  run(work, scope);
  return ranges;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> index_ranges(Tensor q_idx, Tensor k_idx, int64_t queries, int64_t keys) {
  const Device device = device_of(q_idx);
  require_sizes("queries", queries);
  require_sizes("keys", keys);
  const bool wide_q = is_wide(q_idx, "q_idx"), wide_k = is_wide(k_idx, "k_idx"), wide = wide_q || wide_k;
  q_idx = three(q_idx, "q_idx", queries, wide);
  k_idx = three(k_idx, "k_idx", keys, wide);
  input_view(q_idx, "q_idx", device);
  input_view(k_idx, "k_idx", device);
  const ExecutionScope scope(device, false);
  if (wide) {
    Sizes lead;
    for (int d = 0; d < 2; ++d) {
      const int64_t q = q_idx.size(d), k = k_idx.size(d);
      if (q != k && q != 1 && k != 1) value_error("q_idx and k_idx have batches or heads that do not broadcast");
      lead.push_back(q == 1 ? k : q);
    }
    if (lead_of(k_idx) == lead && (lead_of(q_idx) != lead || q_idx.size(2) < k_idx.size(2)))
      rank(k_idx, q_idx, lead, false);
    else
      rank(q_idx, k_idx, lead, true);
  }
  const auto whole = [](const Tensor& index, int64_t length) {
    return torch::stable::contiguous(aten::expand(index, {index.size(0), index.size(1), length}));
  };
  q_idx = whole(q_idx, queries);
  k_idx = whole(k_idx, keys);
  return {q_idx, k_idx, ranges_of(q_idx, scope), ranges_of(k_idx, scope)};
}

}  // namespace
}  // namespace splash::torch_ops

STABLE_TORCH_LIBRARY_FRAGMENT(splash, library) {
  library.def("mask_bits(Tensor mask, SymInt rows, SymInt columns, bool transpose) -> (Tensor, Tensor)");
  library.def(
      "mask_tiles(Tensor mask, SymInt rows, SymInt columns, bool transpose) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def("mask_of_csr(Tensor crow, Tensor col, SymInt rows, SymInt columns) -> Tensor");
  library.def(
      "csr_tiles(Tensor crow, Tensor col, SymInt rows, SymInt columns, bool transpose) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "index_ranges(Tensor q_idx, Tensor k_idx, SymInt queries, SymInt keys) -> (Tensor, Tensor, Tensor, Tensor)");
}

#define SPLASH_TABLE_OPERATOR(name) \
  library.impl(#name, &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::name)>)
#define SPLASH_TABLE_OPERATORS        \
  SPLASH_TABLE_OPERATOR(mask_bits);   \
  SPLASH_TABLE_OPERATOR(mask_tiles);  \
  SPLASH_TABLE_OPERATOR(mask_of_csr); \
  SPLASH_TABLE_OPERATOR(csr_tiles);   \
  SPLASH_TABLE_OPERATOR(index_ranges);

STABLE_TORCH_LIBRARY_IMPL(splash, CPU, library){SPLASH_TABLE_OPERATORS} STABLE_TORCH_LIBRARY_IMPL(splash, CUDA,
                                                                                                  library) {
  SPLASH_TABLE_OPERATORS
}
