#include "kernels/rows_cuda.hpp"

namespace splash::instances::sm90 {

RowFunctions entmax_rows_float16() { return {forward<__half>, backward<__half>}; }

}  // namespace splash::instances::sm90
