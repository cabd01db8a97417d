// torch.ops.splash.chosen_blocks: the key blocks whose means score best with those of a query block.
#include <algorithm>
#include <optional>

#include "aten.hpp"
#include "errors.hpp"
#include "execution.hpp"
#include "kernels/tables.hpp"

namespace splash::torch_ops {
namespace {

namespace tables = patterns::tables;
using torch::headeronly::ScalarType;

/// One call, whose queries and keys are of `Element`.
template <class Element, class Wide>
class Choice {
 public:
  Choice(const tables::ChosenProblem& problem, const ExecutionScope& scope) : p_(problem), scope_(scope) {}

  Tensor mask(const Tensor& q, const TensorView& of_q, const Tensor& k, const TensorView& of_k, int64_t top) const {
    const int64_t lists = p_.lists(), group = lists / p_.kv_heads, rows = p_.row_blocks(), columns = p_.column_blocks();
    const int64_t matrices = p_.batches * p_.kv_heads, most = std::min(top, columns);
    const Tensor scores = torch::stable::new_empty(q, {p_.batches, lists, rows, columns}, kWide);
    const Tensor of_queries = means(q, of_q, false, lists, p_.heads / lists);
    const Tensor of_keys = means(k, of_k, true, p_.kv_heads, 1);
    const int64_t dim = of_q.shape[3];
    aten::multiply(torch::stable::view(of_queries, {matrices, group * rows, dim}),
                   torch::stable::transpose(torch::stable::view(of_keys, {matrices, columns, dim}), 1, 2),
                   torch::stable::view(scores, {matrices, group * rows, columns}));
    run(tables::EarlierScores<Wide>{p_, data(scores)});
    const Tensor largest = torch::stable::contiguous(aten::largest(scores, most));
    const Tensor chosen = torch::stable::new_empty(q, {p_.batches, p_.heads, rows, columns}, ScalarType::Bool);
    run(tables::ChooseBlocks<Wide>{p_, top, most, data(scores), data(largest),
                                   static_cast<uint8_t*>(chosen.mutable_data_ptr())});
    return chosen;
  }

 private:
  static constexpr ScalarType kWide = sizeof(Wide) == 8 ? ScalarType::Double : ScalarType::Float;

  static Wide* data(const Tensor& tensor) { return static_cast<Wide*>(tensor.mutable_data_ptr()); }

  template <class Work>
  void run(const Work& work) const {
    check(kernels::each(work, scope_.arch(), scope_.execution()));
  }

  Tensor means(const Tensor& tensor, const TensorView& view, bool of_keys, int64_t count, int64_t group) const {
    const int64_t dim = view.shape[3];
    const Tensor out = torch::stable::new_empty(
        tensor, {p_.batches, count, of_keys ? p_.column_blocks() : p_.row_blocks(), dim}, kWide);
    run(tables::BlockMeans<Element, Wide>{p_,
                                          of_keys,
                                          static_cast<const Element*>(view.data),
                                          {view.stride[0], view.stride[1], view.stride[2], view.stride[3]},
                                          count,
                                          group,
                                          dim,
                                          data(out)});
    return out;
  }

  const tables::ChosenProblem& p_;
  const ExecutionScope& scope_;
};

/// The lengths of the batch entries as int32, which the result holds.
std::optional<Tensor> narrow_lengths(const std::optional<Tensor>& lengths, const char* name, int64_t batch,
                                     const Device& device) {
  if (!lengths) return std::nullopt;
  const TensorView view = input_view(*lengths, name, device);
  if (view.dtype != DType::int32 && view.dtype != DType::int64) type_error(name, " must be int32 or int64");
  if (view.rank != 1 || view.shape[0] != batch) value_error(name, " must have ", batch, " entries");
  return torch::stable::contiguous(torch::stable::to(*lengths, ScalarType::Int));
}

Tensor chosen_blocks(Tensor q, Tensor k, std::optional<Tensor> lengths, std::optional<Tensor> kv_lengths, int64_t rows,
                     int64_t columns, int64_t top, bool share_group, int64_t q_start, int64_t k_start) {
  const Device device = device_of(q);
  const TensorView of_q = input_view(q, "q", device), of_k = input_view(k, "k", device);
  if (of_q.rank != 4 || of_k.rank != 4) value_error("q and k must have 4 dimensions");
  if (of_q.dtype != of_k.dtype) type_error("q and k have different dtypes");
  if (of_k.shape[0] != of_q.shape[0] || of_k.shape[3] != of_q.shape[3] || of_k.shape[1] < 1 ||
      of_q.shape[1] % of_k.shape[1] != 0)
    value_error("k must have q's batch and head dimension, and a number of heads that divides q's");
  if (rows < 1 || rows > kUnlimited || columns < 1 || columns > kUnlimited)
    value_error("rows and columns are ", rows, " and ", columns, "; expected 1 to 2**30");
  if (top < 1) value_error("top is ", top, "; expected 1 or more");
  const int64_t batch = of_q.shape[0];
  lengths = narrow_lengths(lengths, "lengths", batch, device);
  kv_lengths = narrow_lengths(kv_lengths, "kv_lengths", batch, device);
  const auto data = [](const std::optional<Tensor>& tensor) {
    return tensor ? static_cast<const int32_t*>(tensor->const_data_ptr()) : nullptr;
  };
  const tables::ChosenProblem problem{batch,         of_q.shape[1], of_k.shape[1], of_q.shape[2],
                                      of_k.shape[2], rows,          columns,       share_group,
                                      q_start,       k_start,       data(lengths), data(kv_lengths)};
  const ExecutionScope scope(device, false);
  const auto mask = [&]<class Element, class Wide>() {
    return Choice<Element, Wide>(problem, scope).mask(q, of_q, k, of_k, top);
  };
  switch (of_q.dtype) {
    case DType::float32:
      return mask.operator()<float, float>();
    case DType::float16:
      return mask.operator()<half_t, float>();
    case DType::bfloat16:
      return mask.operator()<bfloat16_t, float>();
    case DType::float64:
      return mask.operator()<double, double>();
    default:
      type_error("q must have a floating dtype");
  }
}

}  // namespace
}  // namespace splash::torch_ops

STABLE_TORCH_LIBRARY_FRAGMENT(splash, library) {
  library.def(
      "chosen_blocks(Tensor q, Tensor k, Tensor? lengths, Tensor? kv_lengths, SymInt rows, SymInt columns, SymInt top, "
      "bool share_group, SymInt q_start, SymInt k_start) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(splash, CPU, library) {
  library.impl("chosen_blocks", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::chosen_blocks)>);
}

STABLE_TORCH_LIBRARY_IMPL(splash, CUDA, library) {
  library.impl("chosen_blocks", &splash::torch_ops::guarded<TORCH_BOX(&splash::torch_ops::chosen_blocks)>);
}
