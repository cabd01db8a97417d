#include "kernels/rows_cuda.hpp"

namespace splash::instances::sm90 {

RowFunctions entmax_rows_float64() { return {forward<double>, backward<double>}; }

}  // namespace splash::instances::sm90
