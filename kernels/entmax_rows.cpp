#include "kernels/entmax_rows.hpp"

#include "kernels/tensors.hpp"
#include "kernels/text.hpp"

namespace splash::kernels {
namespace {

template <class Arguments>
Status run(Pass pass, const Arguments& arguments, Arch arch, const Execution& execution) {
  if (!(arguments.alpha > 1.0 && arguments.alpha <= 2.0))
    return report(StatusCode::invalid_value,
                  join("alpha is ", arguments.alpha, "; expected a number above 1, up to 2"));
  if (const Status status = check_dtype(arguments.dtype); !status.ok()) return status;
  return run_of_tensors(Op::entmax_rows, pass, arguments, arch, execution);
}

}  // namespace

Status entmax_rows_forward(const EntmaxRowsForward& arguments, Arch arch, const Execution& execution) {
  return run(Pass::forward, arguments, arch, execution);
}

Status entmax_rows_backward(const EntmaxRowsBackward& arguments, Arch arch, const Execution& execution) {
  return run(Pass::backward, arguments, arch, execution);
}

}  // namespace splash::kernels
