// Where an operator runs: Torch's thread pool on the CPU, Torch's current stream of the device on CUDA.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "convert.hpp"
#include "kernels/registry.hpp"

namespace splash::torch_ops {

/// Keeps the device current while it lives.
class ExecutionScope {
 public:
  ExecutionScope(const Device& device, bool deterministic);

  kernels::Arch arch() const { return arch_; }
  const Execution& execution() const { return execution_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  kernels::Arch arch_ = kernels::Arch::cpu;
  Execution execution_;
};

}  // namespace splash::torch_ops
