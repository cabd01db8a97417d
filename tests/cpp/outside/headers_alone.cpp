#include <cstdio>
#include <vector>

#include "splash/cpu/forward.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/patterns/sliding_window.hpp"

int main() {
  constexpr int64_t heads = 2, length = 300, dim = 64;
  const int64_t size = heads * length * dim;
  std::vector<float> q(size), k(size), v(size), out(size), tau(heads * length), saved(2 * heads * length);
  for (int64_t n = 0; n < size; ++n) {
    q[n] = float(n % 7) - 3;
    k[n] = float(n % 5) - 2;
    v[n] = 1;
  }
  const auto view = [&](std::vector<float>& data) {
    return splash::TensorView{
        data.data(), splash::DType::float32, 4, {1, heads, length, dim}, {size, length * dim, dim, 1}};
  };
  splash::ForwardArguments arguments;
  arguments.in.q = view(q);
  arguments.in.k = view(k);
  arguments.in.v = view(v);
  arguments.in.scale = 0.125;
  arguments.in.normalizer.num_floats = 1;
  arguments.in.normalizer.floats[0] = 1.5;
  arguments.out = view(out);
  arguments.statistic.data = tau.data();
  arguments.saved.data = saved.data();

  using Entmax = splash::normalizers::Entmax<float, splash::normalizers::SquareExponent>;
  const splash::patterns::SlidingWindow window{31, 0};
  const splash::Status status =
      splash::cpu::forward<splash::patterns::SlidingWindow, Entmax, float, float>(window, arguments, {});
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.reason);
    return 1;
  }
  std::printf("weights of a row sum to %.5f\n", out[size - 1]);
  return out[size - 1] > 0.99999f && out[size - 1] < 1.00001f ? 0 : 1;
}
