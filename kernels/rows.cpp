#include "kernels/rows.hpp"

#include <string>

#include "kernels/report.hpp"
#include "kernels/row_functions.hpp"
#include "kernels/table.hpp"
#include "kernels/text.hpp"

namespace splash::kernels {
namespace {

/// Empty where this build has nothing for the architecture.
instances::RowFunctions functions(Arch arch, [[maybe_unused]] DType dtype) {
  using namespace instances;
#if defined(__x86_64__)
  if (arch == Arch::cpu) return pick(isa_v2::entmax_rows, isa_v3::entmax_rows, isa_v4::entmax_rows)();
#else
  if (arch == Arch::cpu) return isa_generic::entmax_rows();
#endif
#if defined(SPLASH_WITH_CUDA)
  if (arch == Arch::sm90) {
    if (dtype == DType::float16) return sm90::entmax_rows_float16();
    if (dtype == DType::bfloat16) return sm90::entmax_rows_bfloat16();
    return dtype == DType::float32 ? sm90::entmax_rows_float32() : sm90::entmax_rows_float64();
  }
#endif
  return {};
}

template <class Arguments>
Status run(const char* pass, Status (*function)(const Arguments&, const Execution&), const Arguments& arguments,
           Arch arch, const Execution& execution) {
  if (!(arguments.alpha > 1.0 && arguments.alpha <= 2.0))
    return report(StatusCode::invalid_value,
                  join("alpha is ", arguments.alpha, "; expected a number above 1, up to 2"));
  if (const Status status = check_dtype(arguments.dtype); !status.ok()) return status;
  if (function) return function(arguments, execution);
  std::string nearest = name_of(Arch::cpu);
  if (functions(Arch::sm90, arguments.dtype).forward) nearest = name_of(Arch::sm90);
  return report(StatusCode::no_kernel, std::string("no compiled instance for entmax rows, ") + pass + " on " +
                                           name_of(arch) + "; the nearest one is on " + nearest + " (arch differs)");
}

}  // namespace

Status entmax_rows_forward(const EntmaxRowsForward& arguments, Arch arch, const Execution& execution) {
  return run("forward", functions(arch, arguments.dtype).forward, arguments, arch, execution);
}

Status entmax_rows_backward(const EntmaxRowsBackward& arguments, Arch arch, const Execution& execution) {
  return run("backward", functions(arch, arguments.dtype).backward, arguments, arch, execution);
}

}  // namespace splash::kernels
