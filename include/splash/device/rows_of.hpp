// Views of tensors as kernels that gather rows take them.
#pragma once

#include "splash/core/arguments.hpp"
#include "splash/kernel/row_lanes.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

template <class Element>
kernel::RowsOf<Element> rows_of(const TensorView& view) {
  const auto stride = [&](int d) { return view.shape[d] > 1 ? view.stride[d] : 0; };
  return {static_cast<Element*>(view.data), {stride(2), stride(1), stride(0)}};
}

}  // namespace device
SPLASH_NAMESPACE_END
