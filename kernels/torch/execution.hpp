// Where an operator runs: Torch's thread pool on the CPU, Torch's current stream of the device on CUDA; and on what
// memory.
#pragma once

#include <optional>

#include "allocate.hpp"
#include "kernels/registry.hpp"

namespace splash::torch_ops {

/// Keeps the device current, and the workspace of the call, while it lives.
class ExecutionScope {
 public:
  ExecutionScope(const Device& device, bool deterministic);

  kernels::Arch arch() const { return arch_; }
  const Execution& execution() const { return execution_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  kernels::Arch arch_ = kernels::Arch::cpu;
  Workspace workspace_;
  Execution execution_;
};

}  // namespace splash::torch_ops
