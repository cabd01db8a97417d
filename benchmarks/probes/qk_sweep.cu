// S = Q K^T by wgmma, K by TMA, no PV: what does a sweep cost with 2, 3, 4 consumer warp groups of 64 rows and an
// observer that does nothing, maxima, counts, moments, or the whole of R1? One build a head dimension and group count:
// -DHEAD_DIM=64|128 -DGROUPS=2|3|4 -DBLOCKS=1|2 (thread blocks a multiprocessor).
#include "bench.hpp"

#if BLOCKS == 2
constexpr bool kLists = HEAD_DIM == 64;
constexpr int kYoung = 6, kOld = 6;
using Wide = Shape<false, 128, HEAD_DIM == 64 ? 4 : 2, 1>;
using Lean = Shape<false, 64, 4, 1>;
#elif GROUPS == 4
constexpr bool kLists = HEAD_DIM == 64;
constexpr int kYoung = 8, kOld = 8;
using Wide = Shape<false, 128, HEAD_DIM == 64 ? 6 : 2>;
using Lean = Shape<false, 64, 4, 1>;
#elif GROUPS == 3
constexpr bool kLists = true;
constexpr int kYoung = HEAD_DIM == 64 ? 12 : 10, kOld = kYoung;
using Wide = Shape<true, 128, HEAD_DIM == 64 ? 6 : 4>;
using Lean = Shape<true, 64, HEAD_DIM == 64 ? 5 : 4>;
#else
constexpr bool kLists = true;
constexpr int kYoung = 12, kOld = 12;
using Wide = Shape<true, 128, 6>;
using Lean = Shape<true, 64, 6>;
#endif
using Shared = Shape<false, 128, HEAD_DIM == 64 ? 6 : 3, 1>;

int main(int argc, char** argv) {
  probe::Csv csv(argc, argv, "qk_sweep");
  constexpr bool k64 = HEAD_DIM == 64;
  for (const int n : {8192, 32768}) {
    const bool small = n == 8192;
    Bench bench(small ? 32 : 16, n, &csv);
    bench.inputs("iid1");
    // The product's floor, and the design's overlap model (sim/overlap.py) for instructions as compiled here, at W 2 |
    // 3 | 4.
    const char* floor = k64 ? (small ? "floor 0.178 (290 cyc)" : "floor 1.40") : (small ? "floor 0.356" : "floor 2.81");
    const auto model = [&](const char* text) { return k64 && small ? text : ""; };
    bench.run<Wide, Nothing>(floor);
    if (GROUPS < 4 && BLOCKS == 1) bench.run<Shared, Nothing>(floor);
    bench.run<Lean, Nothing>(k64 && small ? "0.19-0.21 | 0.178 | 0.178" : floor);
    bench.run<Lean, Maximum<true>>(model("0.21-0.23 | 0.178 | 0.178"));
    bench.run<Lean, Maximum<false>>(model("0.22-0.26 | 0.18 | 0.178"));
    bench.run<Lean, MaximumAndCount>(model("0.28-0.33 | 0.20-0.23 | 0.18-0.19"));
    bench.run<Lean, Moments>(model("0.34-0.41 | 0.25-0.29 | 0.22-0.24 (design 0.27)"));
    bench.run<Lean, Detect>(model("0.24-0.28 | 0.18-0.19 | 0.178"));
    if constexpr (kLists)
      for (const char* kind : {"iid1", "iid4", "local"}) {
        bench.inputs(kind);
        const int which = kind[0] == 'l' ? 2 : kind[3] == '4';
        const char* whole[2][2][3] = {{{"0.44-0.62 (W 2: 0.56)", "0.24-0.32", "0.20-0.28 (W 2: 0.23)"},
                                       {"2.15-2.9 (W 2: 3.0)", "1.5-1.9", "1.5-1.85"}},
                                      {{"0.53", "0.38", "0.38"}, {"3.0", "3.0", "3.0"}}};
        bench.run<Lean, Candidates<kYoung, kOld, HEAD_DIM, false>>(which ? ""
                                                                         : model("0.47-0.56 | 0.37-0.41 | 0.35-0.36"));
        bench.run<Lean, Candidates<kYoung, kOld, HEAD_DIM, true>>(whole[!k64][!small][which]);
      }
  }
  return 0;
}
