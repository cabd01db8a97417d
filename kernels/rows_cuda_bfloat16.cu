#include "kernels/rows_cuda.hpp"

namespace splash::instances::sm90 {

RowFunctions entmax_rows_bfloat16() { return {forward<__nv_bfloat16>, backward<__nv_bfloat16>}; }

}  // namespace splash::instances::sm90
