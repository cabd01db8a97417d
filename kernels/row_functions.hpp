// What each compilation of the row functions offers: one a CPU instruction set, one a GPU architecture.
#pragma once

#include "splash/core/rows.hpp"

namespace splash::instances {

struct RowFunctions {
  Status (*forward)(const EntmaxRowsForward&, const Execution&) = nullptr;
  Status (*backward)(const EntmaxRowsBackward&, const Execution&) = nullptr;
};

#if defined(__x86_64__)
namespace isa_v2 {
RowFunctions entmax_rows();
}
namespace isa_v3 {
RowFunctions entmax_rows();
}
namespace isa_v4 {
RowFunctions entmax_rows();
}
#else
namespace isa_generic {
RowFunctions entmax_rows();
}
#endif
namespace sm90 {
RowFunctions entmax_rows_float16();
RowFunctions entmax_rows_bfloat16();
RowFunctions entmax_rows_float32();
RowFunctions entmax_rows_float64();
}  // namespace sm90

}  // namespace splash::instances
