// Row functions on CUDA on the host: which kernel serves a shape, and its launch. Asynchronous, without a workspace.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "splash/core/rows.hpp"
#include "splash/kernel/entmax_columns.hpp"
#include "splash/kernel/entmax_rows.hpp"

SPLASH_NAMESPACE_BEGIN
namespace device {

inline constexpr int64_t kMaxBlocks = 0x7fffffff;
inline constexpr int kStagedBytes = 220 * 1024;  ///< of shared memory that a row may take

inline Status status_of(cudaError_t error) {
  if (error != cudaSuccess) return {StatusCode::cuda_error, cudaGetErrorString(error)};
  return {};
}

/// Lets a kernel use more than 48 KB of shared memory, once a device.
template <class Function>
cudaError_t allow_shared_memory(Function function, int bytes, std::atomic<uint64_t>& prepared) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess || (prepared.load() >> (device & 63) & 1)) return error;
  error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) prepared.fetch_or(uint64_t(1) << (device & 63));
  return error;
}

/// The kernels of one element type and one alpha. `kForward` chooses between the two directions.
template <class Element, class Exponent, bool kForward>
class EntmaxRowsLauncher {
  using Real = kernel::RealOf<Element>;
  static constexpr bool kDouble = sizeof(Real) == 8;
  static constexpr int kLongThreads = kDouble ? 512 : 1024;

 public:
  EntmaxRowsLauncher(const RowShape& shape, double alpha, const void* in, const void* grad, void* out,
                     const Execution& execution)
      : shape_(shape),
        normalizer_(normalizers::entmax_of_numbers<Real, Exponent>(alpha)),
        in_(static_cast<const Element*>(in)),
        grad_(static_cast<const Element*>(grad)),
        out_(static_cast<Element*>(out)),
        stream_(static_cast<cudaStream_t>(execution.stream)) {}

  Status run() const {
    if (shape_.outer <= 0 || shape_.length <= 0 || shape_.inner <= 0) return {};
    return status_of(shape_.inner == 1 ? run_rows() : run_columns());
  }

 private:
  cudaError_t run_rows() const {
    const int64_t n = shape_.length;
    if constexpr (kDouble) {
      if (n <= 32 * 8) return launch_rows<32, 8>();
      if (n <= 256 * 16) return launch_rows<256, 16>();
    } else {
      if (n <= 8 * 8) return launch_rows<8, 8>();
      if (n <= 32 * 8) return launch_rows<32, 8>();
      if (n <= 32 * 32) return launch_rows<32, 32>();
      if (n <= 128 * 32) return launch_rows<128, 32>();
      if (n <= 256 * 32) return launch_rows<256, 32>();
      if (n <= 512 * 32) return launch_rows<512, 32>();
      if (n <= 1024 * 32) return launch_rows<1024, 32>();
    }
    return launch_long_rows();
  }

  bool aligned() const {
    const auto at_16 = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
    return shape_.length % kernel::kVectorLength<Element> == 0 && at_16(in_) && at_16(grad_) && at_16(out_);
  }

  /// launch(params, blocks) for as many launches as the grid's limit asks for.
  template <class Launch>
  cudaError_t in_slices(int rows_a_block, const Launch& launch) const {
    const int64_t slice = kMaxBlocks / 2 * rows_a_block;
    for (int64_t first = 0; first < shape_.outer; first += slice) {
      const int64_t rows = shape_.outer - first < slice ? shape_.outer - first : slice, skipped = first * shape_.length;
      launch(kernel::EntmaxRowsParams<Element, Exponent>{normalizer_, in_ + skipped, grad_ ? grad_ + skipped : nullptr,
                                                         out_ + skipped, rows, shape_.length, aligned()},
             unsigned((rows + rows_a_block - 1) / rows_a_block));
    }
    return cudaGetLastError();
  }

  template <int kThreads, int kValues>
  cudaError_t launch_rows() const {
    constexpr int kBlock = kThreads < kernel::kRowBlock ? kernel::kRowBlock : kThreads;
    return in_slices(kBlock / kThreads, [&](const auto& params, unsigned blocks) {
      if constexpr (kForward)
        kernel::entmax_rows_forward<Element, Exponent, kThreads, kValues><<<blocks, kBlock, 0, stream_>>>(params);
      else
        kernel::entmax_rows_backward<Element, Exponent, kThreads, kValues><<<blocks, kBlock, 0, stream_>>>(params);
    });
  }

  cudaError_t launch_long_rows() const {
    if constexpr (kForward) {
      const int64_t bytes = shape_.length * int64_t(sizeof(Element));
      if (bytes > kStagedBytes) {
        return in_slices(1, [&](const auto& params, unsigned blocks) {
          kernel::entmax_long_rows_forward<Element, Exponent, kLongThreads, false>
              <<<blocks, kLongThreads, 0, stream_>>>(params);
        });
      }
      static std::atomic<uint64_t> prepared{0};
      const auto function = kernel::entmax_long_rows_forward<Element, Exponent, kLongThreads, true>;
      if (cudaError_t error = allow_shared_memory(function, kStagedBytes, prepared); error != cudaSuccess) return error;
      return in_slices(1, [&](const auto& params, unsigned blocks) {
        function<<<blocks, kLongThreads, unsigned(bytes), stream_>>>(params);
      });
    } else {
      return in_slices(1, [&](const auto& params, unsigned blocks) {
        kernel::entmax_long_rows_backward<Element, Exponent, kLongThreads>
            <<<blocks, kLongThreads, 0, stream_>>>(params);
      });
    }
  }

  cudaError_t run_columns() const {
    const int64_t inner_blocks = (shape_.inner + 31) / 32, most = kMaxBlocks / inner_blocks;
    if (most == 0) return cudaErrorInvalidConfiguration;
    for (int64_t first = 0; first < shape_.outer; first += most) {
      const int64_t outer = shape_.outer - first < most ? shape_.outer - first : most;
      const int64_t skipped = first * shape_.length * shape_.inner;
      launch_columns({normalizer_, in_ + skipped, grad_ ? grad_ + skipped : nullptr, out_ + skipped, shape_.length,
                      shape_.inner, inner_blocks},
                     unsigned(outer * inner_blocks));
    }
    return cudaGetLastError();
  }

  void launch_columns(const kernel::EntmaxColumnsParams<Element, Exponent>& params, unsigned blocks) const {
    if constexpr (kForward) {
      if constexpr (!kDouble) {
        if (shape_.length <= 8 * 32)
          return kernel::entmax_columns_forward<Element, Exponent, 8, 32><<<blocks, 256, 0, stream_>>>(params);
        if (shape_.length <= 32 * 32)
          return kernel::entmax_columns_forward<Element, Exponent, 32, 32><<<blocks, 1024, 0, stream_>>>(params);
      }
      kernel::entmax_long_columns_forward<Element, Exponent, 16><<<blocks, 512, 0, stream_>>>(params);
    } else {
      kernel::entmax_columns_backward<Element, Exponent, 16><<<blocks, 512, 0, stream_>>>(params);
    }
  }

  RowShape shape_;
  normalizers::Entmax<Real, Exponent> normalizer_;
  const Element* in_;
  const Element* grad_;
  Element* out_;
  cudaStream_t stream_;
};

/// p = entmax(x) along each row.
template <class Exponent, class Element>
Status entmax_rows_forward(const EntmaxRowsForward& args, const Execution& execution) {
  return EntmaxRowsLauncher<Element, Exponent, true>(args.rows, args.alpha, args.x, nullptr, args.p, execution).run();
}

template <class Exponent, class Element>
Status entmax_rows_backward(const EntmaxRowsBackward& args, const Execution& execution) {
  return EntmaxRowsLauncher<Element, Exponent, false>(args.rows, args.alpha, args.p, args.grad, args.grad_x, execution)
      .run();
}

}  // namespace device
SPLASH_NAMESPACE_END
