#include "expected_policies.hpp"

#include <string_view>

#include "splash/cpu/backward.hpp"
#include "splash/cpu/forward.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax_sink.hpp"
#include "splash/normalizers/top_k.hpp"

namespace {

using namespace splash;
using patterns::SlidingWindow;

/// Runs `run` with the type of that name.
template <class Run>
Status with_normalizer(std::string_view name, const Run& run) {
  using Softmax = normalizers::Softmax<float>;
  if (name == "softmax") return run.template operator()<Softmax>();
  if (name == "softmax_sink") return run.template operator()<normalizers::SoftmaxSink<float>>();
  if (name == "entmax15") return run.template operator()<normalizers::Entmax<float, normalizers::SquareExponent>>();
  if (name == "top_k_softmax") return run.template operator()<normalizers::TopK<Softmax>>();
  return {StatusCode::invalid_value, "no normalizer of this name"};
}

}  // namespace

Status expected_forward(const char* normalizer, const SlidingWindow& window, const ForwardArguments& arguments) {
  return with_normalizer(
      normalizer, [&]<class N>() { return cpu::forward<SlidingWindow, N, float, float>(window, arguments, {}); });
}

Status expected_backward(const char* normalizer, const SlidingWindow& window, const BackwardArguments& arguments) {
  return with_normalizer(
      normalizer, [&]<class N>() { return cpu::backward<SlidingWindow, N, float, float>(window, arguments, {}); });
}
