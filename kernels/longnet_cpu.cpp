// LongNet's mixture on the CPU; compiled once for each instruction set.
#include "kernels/longnet_functions.hpp"
#include "splash/cpu/longnet.hpp"

namespace splash::instances::SPLASH_ISA {

LongNetFunctions longnet(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return {cpu::longnet_mix<float, half_t>, cpu::longnet_mix_backward<float, half_t>};
    case DType::bfloat16:
      return {cpu::longnet_mix<float, bfloat16_t>, cpu::longnet_mix_backward<float, bfloat16_t>};
    case DType::float32:
      return {cpu::longnet_mix<float, float>, cpu::longnet_mix_backward<float, float>};
    default:
      return {cpu::longnet_mix<double, double>, cpu::longnet_mix_backward<double, double>};
  }
}

}  // namespace splash::instances::SPLASH_ISA
