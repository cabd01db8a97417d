// Where do R1's milliseconds go, and what does a threshold from buckets of keys change? D 64.
// -DGROUPS=2|3|4: consumer groups. Two groups have registers for products one tile ahead, so they alone have "ahead".
#define HEAD_DIM 64
#define BLOCKS 1
#include "bench.hpp"
#include "bucket_lists.hpp"

#if GROUPS == 2
using Wide = Shape<true, 128, 6, 2, true>;
using Twice = Wide;
using Plain = Shape<true, 128, 6>;
constexpr int kShared = 16;
#elif GROUPS == 3
using Wide = Shape<true, 128, 6>;
using Twice = Shape<false, 128, 6, 1>;  // a first sweep's buckets and Q together are too many registers
using Lean = Shape<true, 64, 5>;
constexpr int kShared = 16;
template <Mode kMode>
using R1 = Candidates<12, 12, 64, false, kMode>;
#else
using Wide = Shape<false, 128, 4, 1>;
using Twice = Wide;
#endif

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  probe::Csv csv(argc, argv, "r1");
  for (const int n : {8192, 32768}) {
    const bool small = n == 8192;
    if (!small && GROUPS == 4) break;
    Bench bench(small ? 32 : 16, n, &csv);
    const size_t rows = size_t(bench.heads) * n;
    bench.records = probe::allocate<uint8_t>(rows / 64 * kListTile);
    if (reinterpret_cast<uintptr_t>(bench.records) % kListTile) return std::fprintf(stderr, "records not aligned\n"), 1;
    bench.counts = probe::allocate<uint32_t>(rows / 64 * 128);
    bench.given = probe::allocate<float>(rows);
    const auto both = [&](const Observed& o) { finish<true><<<unsigned(rows / 32), 256>>>(o); };
    const auto pairs = [&](const Observed& o) { finish<false><<<unsigned(rows / 32), 256>>>(o); };
    // Predictions at 8k: W 2 ahead | W 3.
    const auto at8k = [&](const char* ahead, const char* three) { return !small ? "" : GROUPS == 2 ? ahead : three; };
    bench.inputs("iid1");
    bench.run<Wide, Nothing>(at8k("0.18", "0.173 seen"));
    bench.run<Wide, Maximum<true>>(at8k("0.19", "0.20"));
    bench.run<Twice, BucketSweep<8>>(at8k("0.19", "0.21"));
#if GROUPS < 4
    bench.run<Wide, BucketSweep<16>>(at8k("0.19", "0.21"));
    bench.run<Wide, Moments>(at8k("0.27", "0.34"));
    bench.run<Wide, Detect>(at8k("0.21", "0.24"));
#endif
    for (const char* kind : {"iid1", "iid4", "local"}) {
      if (!small && std::string(kind) == "iid4") continue;
      bench.inputs(kind);
      const auto say = [&](const char* iid1, const char* iid4, const char* local) {
        return !small || GROUPS == 4 ? "" : kind[0] == 'l' ? local : kind[3] == '4' ? iid4 : iid1;
      };
#if GROUPS == 3
      if (small) {
        bench.run<Lean, R1<Mode::kWhole>>(say("2.27 seen", "0.86 seen", "0.35 seen"));
        bench.keep_thresholds();
        bench.run<Lean, R1<Mode::kClocked>>(say("7.4 x 9k; 25k", "1.3 x 6k; 15k", "0; 12k"));
        bench.run<Lean, R1<Mode::kNoEnd>>(say("2.1", "0.65", "0.27"));
        bench.run<Lean, R1<Mode::kGiven>>(say("0.60", "0.45", "0.34"));
        bench.run<Lean, R1<Mode::kGivenAppend>>(say("0.38", "0.28", "0.25"));
      }
      bench.run<Wide, Lists<0, 0, false>>(say("0.43", "0.32", "0.24"));
      bench.run<Twice, Masks>(say("0.50", "0.50", "0.50"));
      bench.run<Wide, Lists<0, 0, false>>(say("0.67", "0.39", "0.31"), pairs);
      bench.run<Wide, Lists<0, 0, true>>(say("0.66", "0.39", "0.31"), both);
      bench.run<Twice, Lists<8, 0, false>>(say("0.63", "0.38", "0.34"), pairs);
      bench.run<Twice, Lists<8, 0, true>>(say("0.62", "0.38", "0.34"), both);
      bench.run<Twice, Lists<1, 0, false>>(say("0.70", "0.55", "0.50"), pairs);
      bench.run<Twice, Lists<1, 0, true>>(say("0.67", "0.55", "0.50"), both);
      bench.run<Lean, Lists<0, kShared, false>>(say("0.62", "0.40", "0.33"), pairs);
#elif GROUPS == 2
      bench.run<Plain, Lists<0, 0, true>>(say("0.68", "0.42", "0.33"), both);
      bench.run<Wide, Lists<0, 0, false>>(say("0.30", "0.26", "0.20"));
      bench.run<Twice, Masks>(say("0.40", "0.40", "0.40"));
      bench.run<Wide, Lists<0, 0, false>>(say("0.55", "0.32", "0.27"), pairs);
      bench.run<Wide, Lists<0, 0, true>>(say("0.54", "0.32", "0.27"), both);
      bench.run<Twice, Lists<8, 0, false>>(say("0.51", "0.32", "0.29"), pairs);
      bench.run<Twice, Lists<8, 0, true>>(say("0.50", "0.32", "0.29"), both);
      bench.run<Twice, Lists<1, 0, false>>(say("0.57", "0.48", "0.44"), pairs);
      bench.run<Twice, Lists<1, 0, true>>(say("0.55", "0.48", "0.44"), both);
      bench.run<Wide, Lists<0, kShared, false>>(say("0.48", "0.31", "0.28"), pairs);
      bench.run<Twice, Lists<8, kShared, false>>(say("0.46", "0.32", "0.30"), pairs);
#else
      bench.run<Wide, Lists<0, 0, true>>("", both);
      bench.run<Twice, Lists<1, 0, true>>("", both);
#endif
    }
    bench.table();
    for (void* p : {(void*)bench.records, (void*)bench.counts, (void*)bench.given}) CHECK(cudaFree(p));
  }
  return 0;
}
