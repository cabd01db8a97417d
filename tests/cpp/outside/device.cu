// Stripes as Hopper kernels: the same header, compiled by nvcc for the forward and the backward.
#include <cstdio>

#include "splash/device/sm90/backward.hpp"
#include "splash/device/sm90/forward.hpp"
#include "splash/normalizers/softmax.hpp"
#include "stripes.hpp"

using Softmax = splash::normalizers::Softmax<float>;

splash::Status run(const splash::ForwardArguments& arguments, const splash::Execution& execution) {
  return splash::device::forward_sm90<Stripes, Softmax, cutlass::bfloat16_t, 64, splash::tuning::Spans::any>(
      Stripes{3}, arguments, execution);
}

splash::Status run(const splash::BackwardArguments& arguments, const splash::Execution& execution) {
  return splash::device::backward_sm90<Stripes, Softmax, cutlass::bfloat16_t, 64, splash::tuning::Spans::any>(
      Stripes{3}, arguments, execution);
}

int main() {
  // An empty problem is checked on the host and launches nothing, so this runs without a GPU, too.
  splash::ForwardArguments arguments;
  for (splash::TensorView* view : {&arguments.in.q, &arguments.in.k, &arguments.in.v, &arguments.out})
    *view = {nullptr, splash::DType::bfloat16, 4, {0, 1, 0, 64}, {64, 64, 64, 1}};
  splash::BackwardArguments backward;
  backward.in = arguments.in;
  for (splash::TensorView* view :
       {&backward.out, &backward.grad_out, &backward.grad_q, &backward.grad_k, &backward.grad_v})
    *view = arguments.out;
  for (const splash::Status status : {run(arguments, {}), run(backward, {})}) {
    std::printf("%s\n", status.ok() ? "ok" : status.reason);
    if (!status.ok()) return 1;
  }
}
