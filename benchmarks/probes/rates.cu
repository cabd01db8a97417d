// How many lanes a cycle and multiprocessor do maxima of three and two integers, of floats, compares and their
// neighbours take, with 1, 3 and 4 warps a quarter? Pairs of two kinds show which share a pipe.
#include "probe.hpp"

constexpr int kSteps = 512, kChains = 8;

// Operands come from neighbouring chains, and are opaque in each step, so that no step follows from the one before.
#define OPAQUE(x) asm volatile("" : "+r"(x))

DEV void max3_s32(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  a[i] = __vimax3_s32(int(a[i]), int(b[(i + 1) % kChains]), int(b[(i + 3) % kChains]));
}
// Signed and unsigned ones by turns: two of one kind in a row become one of three inputs.
DEV void max2_s32(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  asm volatile("max.s32 %0, %0, %1;\nmax.u32 %0, %0, %2;"
               : "+r"(a[i])
               : "r"(b[(i + 1) % kChains]), "r"(b[(i + 3) % kChains]));
}
DEV void max2_f32(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  asm volatile("{.reg .f32 x, y;\nmov.b32 x, %0;\nmov.b32 y, %1;\nmax.f32 x, x, y;\nmov.b32 %0, x;}"
               : "+r"(a[i])
               : "r"(b[(i + 1) % kChains]));
}
DEV void max3_bf16x2(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  asm volatile("max.bf16x2 %0, %0, %1;\nmax.bf16x2 %0, %0, %2;"
               : "+r"(a[i])
               : "r"(b[(i + 1) % kChains]), "r"(b[(i + 3) % kChains]));
}
DEV void fma_f32(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  asm volatile(
      "{.reg .f32 x, y, z;\nmov.b32 x, %0;\nmov.b32 y, %1;\nmov.b32 z, %2;\nfma.rn.f32 x, x, y, z;\nmov.b32 %0, x;}"
      : "+r"(a[i])
      : "r"(b[(i + 1) % kChains]), "r"(b[(i + 3) % kChains]));
}
DEV void add_f32(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  asm volatile("{.reg .f32 x, y;\nmov.b32 x, %0;\nmov.b32 y, %1;\nadd.rn.f32 x, x, y;\nmov.b32 %0, x;}"
               : "+r"(a[i])
               : "r"(b[(i + 1) % kChains]));
}
DEV void mad_s32(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  asm volatile("mad.lo.s32 %0, %0, %1, %2;" : "+r"(a[i]) : "r"(b[(i + 1) % kChains]), "r"(b[(i + 3) % kChains]));
}
DEV void add_s32(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  a[i] = a[i] + b[(i + 1) % kChains] + b[(i + 3) % kChains];
  OPAQUE(a[i]);
}
DEV void and_xor(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
  asm volatile("lop3.b32 %0, %0, %1, %2, 0x6a;" : "+r"(a[i]) : "r"(b[(i + 1) % kChains]), "r"(b[(i + 3) % kChains]));
}

struct Max3 {
  static constexpr const char *kName = "VIMNMX3.S32", *kWant = "64 (half rate)";
  static constexpr int kPerStep = 1;
  DEV static void step(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) { max3_s32(a, b, i); }
};
#define SIMPLE(Type, name, want, call, count)                                             \
  struct Type {                                                                           \
    static constexpr const char *kName = name, *kWant = want;                             \
    static constexpr int kPerStep = count;                                                \
    DEV static void step(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) { call; } \
  };
SIMPLE(Max2, "VIMNMX", "64", max2_s32(a, b, i), 2)
SIMPLE(MaxF, "FMNMX", "64", max2_f32(a, b, i), 1)
SIMPLE(MaxH, "VHMNMX.BF16 (3)", "64", max3_bf16x2(a, b, i), 1)
SIMPLE(Fma, "FFMA", "128", fma_f32(a, b, i), 1)
SIMPLE(AddF, "FADD", "128", add_f32(a, b, i), 1)
SIMPLE(Mad, "IMAD", "64", mad_s32(a, b, i), 1)
SIMPLE(Add, "IADD3", "64", add_s32(a, b, i), 1)
SIMPLE(Logic, "LOP3", "64", and_xor(a, b, i), 1)
SIMPLE(Max3Fma, "VIMNMX3 + FFMA", "128: pipes differ", (max3_s32(a, b, i), fma_f32(b, a, i)), 2)
SIMPLE(Max3MaxF, "VIMNMX3 + FMNMX", "64: one pipe", (max3_s32(a, b, i), max2_f32(b, a, i)), 2)
SIMPLE(Max3Mad, "VIMNMX3 + IMAD", "128: pipes differ", (max3_s32(a, b, i), mad_s32(b, a, i)), 2)

// Four compares whose predicates are joined, one select: what a group's test does.
struct Compare {
  static constexpr const char *kName = "4 FSETP + SEL", *kWant = "64";
  static constexpr int kPerStep = 5;
  DEV static void step(uint32_t (&a)[kChains], uint32_t (&b)[kChains], int i) {
    asm volatile(
        "{.reg .pred p;\n.reg .f32 x, y, z, w, v;\nmov.b32 x, %0;\nmov.b32 y, %1;\nmov.b32 z, %2;\nmov.b32 w, %3;\n"
        "mov.b32 v, %4;\nsetp.gt.f32 p, x, y;\nsetp.gt.or.f32 p, x, z, p;\nsetp.gt.or.f32 p, x, w, p;\n"
        "setp.gt.or.f32 p, x, v, p;\nselp.b32 %0, %1, %2, p;}"
        : "+r"(a[i])
        : "r"(b[(i + 1) % kChains]), "r"(b[(i + 2) % kChains]), "r"(b[(i + 3) % kChains]), "r"(b[(i + 5) % kChains]));
  }
};

template <class Op>
__global__ void __launch_bounds__(512) rate(const uint32_t* in, uint32_t* out, uint64_t* cycles) {
  uint32_t a[kChains], b[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) a[i] = in[i * 512 + threadIdx.x], b[i] = in[(i + 8) * 512 + threadIdx.x];
  __syncthreads();
  const int64_t from = clock64();
#pragma unroll 1
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) {
        Op::step(a, b, i);
        OPAQUE(a[i]);
        OPAQUE(b[i]);
      }
    }
  }
  __syncthreads();
  const int64_t took = clock64() - from;
  uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < kChains; ++i) all += a[i] ^ (b[i] * 3);
  out[blockIdx.x * 512 + threadIdx.x] = all;
  if (threadIdx.x == 0) cycles[blockIdx.x] = took;
}

int main(int argc, char** argv) {
  probe::Csv csv(argc, argv, "rates");
  auto* in = probe::allocate<uint32_t>(16 * 512);
  auto* out = probe::allocate<uint32_t>(132 * 512);
  auto* cycles = probe::allocate<uint64_t>(132);
  std::vector<float> values(16 * 512);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.5f + float((i * 2654435761u) >> 8 & 0xffff) / 65536;
  CHECK(cudaMemcpy(in, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
  std::printf("lanes a cycle and multiprocessor, 1 | 3 | 4 warps a quarter\n");
  const auto one = [&]<class Op>(Op) {
    float lanes[3];
    const int warps[] = {4, 12, 16};
    for (int w = 0; w < 3; ++w) {
      probe::median_ms([&] { rate<Op><<<132, warps[w] * 32>>>(in, out, cycles); }, 5);
      std::vector<uint64_t> took(132);
      CHECK(cudaMemcpy(took.data(), cycles, 132 * 8, cudaMemcpyDeviceToHost));
      std::nth_element(took.begin(), took.begin() + 66, took.end());
      lanes[w] = float(warps[w]) * 32 * kSteps * 4 * kChains * Op::kPerStep / took[66];
      csv.row(Op::kName,
              w == 0   ? "1 warp a quarter"
              : w == 1 ? "3 warps a quarter"
                       : "4 warps a quarter",
              lanes[w], "lanes/cycle", Op::kWant);
    }
    std::printf("  %-18s %6.1f %6.1f %6.1f | predicted %s\n", Op::kName, lanes[0], lanes[1], lanes[2], Op::kWant);
  };
  one(Max3{}), one(Max2{}), one(MaxF{}), one(MaxH{}), one(Fma{}), one(AddF{}), one(Mad{}), one(Add{}), one(Logic{});
  one(Compare{}), one(Max3Fma{}), one(Max3MaxF{}), one(Max3Mad{});
  return 0;
}
