// The two operators, on unpacked arguments.
#pragma once

#include "convert.hpp"

namespace splash::torch_ops {

struct ForwardResult {
  Tensor out, statistic, saved;
};

struct GradientInputs {
  Tensor grad_out;
  std::optional<Tensor> grad_statistic;
};

struct Gradients {
  Tensor q, k, v;
  std::vector<Tensor> parameters;  ///< of the normalizer
};

ForwardResult attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const ProblemArguments& problem);

Gradients attention_backward(const GradientInputs& gradients, const Tensor& q, const Tensor& k, const Tensor& v,
                             const ForwardResult& forward, const ProblemArguments& problem);

}  // namespace splash::torch_ops
