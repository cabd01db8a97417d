#include "kernels/longnet_functions.hpp"
#include "splash/device/longnet.hpp"

namespace splash::instances::sm90 {

LongNetFunctions longnet(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return {device::longnet_mixture<__half, true>, device::longnet_mixture<__half, false>};
    case DType::bfloat16:
      return {device::longnet_mixture<__nv_bfloat16, true>, device::longnet_mixture<__nv_bfloat16, false>};
    case DType::float32:
      return {device::longnet_mixture<float, true>, device::longnet_mixture<float, false>};
    default:
      return {};
  }
}

}  // namespace splash::instances::sm90
