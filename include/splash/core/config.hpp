// Compiler macros, and the namespace in which everything of splash lives.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SPLASH_HD __host__ __device__ __forceinline__
#define SPLASH_UNROLL _Pragma("unroll")
#define SPLASH_NO_UNROLL _Pragma("unroll 1")
#elif defined(__GNUC__)
#define SPLASH_HD inline __attribute__((always_inline))
#define SPLASH_UNROLL
#define SPLASH_NO_UNROLL
#else
#define SPLASH_HD inline
#define SPLASH_UNROLL
#define SPLASH_NO_UNROLL
#endif

// A long answer of a list of patterns: on the host it is a call, not a copy at every place that asks.
#if defined(__CUDACC__)
#define SPLASH_HD_LONG SPLASH_HD
#elif defined(__GNUC__)
#define SPLASH_HD_LONG inline __attribute__((noinline))
#else
#define SPLASH_HD_LONG inline
#endif

// The CPU code is compiled once an instruction set. Each of those translation units names its own inline namespace,
// otherwise the linker would merge equal templates and hand, say, AVX-512 code to a CPU without it.
#if !defined(SPLASH_ISA)
#define SPLASH_ISA generic
#endif
#define SPLASH_NAMESPACE_BEGIN \
  namespace splash {           \
  inline namespace SPLASH_ISA {
#define SPLASH_NAMESPACE_END \
  }                          \
  }
