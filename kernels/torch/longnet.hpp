// The mixture of LongNet's branches, on unpacked arguments.
#pragma once

#include <vector>

#include "convert.hpp"

namespace splash::torch_ops {

Tensor longnet_mix(std::vector<Tensor> outs, std::vector<Tensor> lses, std::vector<int64_t> parts, int64_t heads,
                   int64_t tokens);

std::vector<Tensor> longnet_mix_backward(Tensor grad, std::vector<Tensor> lses, std::vector<int64_t> parts);

}  // namespace splash::torch_ops
