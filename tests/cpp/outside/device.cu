// Stripes as a Hopper kernel: the same header, compiled by nvcc into one forward kernel.
#include <cstdio>

#include "splash/device/sm90/forward.hpp"
#include "splash/normalizers/softmax.hpp"
#include "stripes.hpp"

splash::Status run(const splash::ForwardArguments& arguments, const splash::Execution& execution) {
  return splash::device::forward_sm90<Stripes, splash::normalizers::Softmax<float>, cutlass::bfloat16_t, 64, 0>(
      Stripes{3}, arguments, execution);
}

int main() {
  // An empty problem is checked on the host and launches nothing, so this runs without a GPU, too.
  splash::ForwardArguments arguments;
  for (splash::TensorView* view : {&arguments.in.q, &arguments.in.k, &arguments.in.v, &arguments.out})
    *view = {nullptr, splash::DType::bfloat16, 4, {0, 1, 0, 64}, {64, 64, 64, 1}};
  const splash::Status status = run(arguments, {});
  std::printf("%s\n", status.ok() ? "ok" : status.reason);
  return status.ok() ? 0 : 1;
}
