#include "kernels/rows_cuda.hpp"

namespace splash::instances::sm90 {

RowFunctions entmax_rows_float32() { return {forward<float>, backward<float>}; }

}  // namespace splash::instances::sm90
