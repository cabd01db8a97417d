// The row functions from plain C++: as headers alone, and through the compiled library where ROWS_LIBRARY is defined.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#if defined(ROWS_LIBRARY)
#include "splash/kernels/entmax_rows.hpp"
#else
#include "splash/cpu/entmax_rows.hpp"
#endif

namespace {

splash::Status forward(const splash::EntmaxRowsForward& arguments) {
#if defined(ROWS_LIBRARY)
  return splash::kernels::entmax_rows_forward(arguments, splash::kernels::Arch::cpu, {});
#else
  return splash::cpu::entmax_rows_forward<float, splash::normalizers::UnitExponent, float>(arguments, {});
#endif
}

splash::Status backward(const splash::EntmaxRowsBackward& arguments) {
#if defined(ROWS_LIBRARY)
  return splash::kernels::entmax_rows_backward(arguments, splash::kernels::Arch::cpu, {});
#else
  return splash::cpu::entmax_rows_backward<float, splash::normalizers::UnitExponent, float>(arguments, {});
#endif
}

/// sparsemax of (1, 0.5, -3, ...) is (0.75, 0.25, 0, ...), and its Jacobian halves differences on the support.
bool check(int64_t length, int64_t inner) {
  std::vector<float> x(length * inner, -3.0f), p(x.size()), grad(x.size(), 7.0f), grad_x(x.size());
  for (int64_t i = 0; i < inner; ++i) {
    x[i] = 1.0f;
    x[inner + i] = 0.5f;
    grad[i] = 5.0f;
    grad[inner + i] = 3.0f;
  }
  const splash::RowShape rows{1, length, inner};
  bool ok = forward({rows, splash::DType::float32, 2.0, x.data(), p.data()}).ok() &&
            backward({rows, splash::DType::float32, 2.0, grad.data(), p.data(), grad_x.data()}).ok();
  for (int64_t n = 0; n < length * inner; ++n) {
    const int64_t j = n / inner;
    ok = ok && std::fabs(p[n] - (j == 0 ? 0.75f : (j == 1 ? 0.25f : 0.0f))) < 1e-6f;
    ok = ok && std::fabs(grad_x[n] - (j == 0 ? 1.0f : (j == 1 ? -1.0f : 0.0f))) < 1e-5f;
  }
  return ok;
}

}  // namespace

int main() {
  bool ok = true;
  for (int64_t length : {2, 3, 100, 5000})
    for (int64_t inner : {1, 3, 40}) ok = ok && check(length, inner);
#if defined(ROWS_LIBRARY)
  float number = 0;
  const splash::EntmaxRowsForward one{{1, 1, 1}, splash::DType::float32, 1.5, &number, &number};
  const splash::Status missing = splash::kernels::entmax_rows_forward(one, splash::kernels::Arch(80), {});
  std::printf("%s\n", missing.reason);
  ok = ok && missing.code == splash::StatusCode::no_kernel && std::strstr(missing.reason, "sm80");
#endif
  std::printf("%s\n", ok ? "ok" : "wrong");
  return ok ? 0 : 1;
}
