// Lists of keys of queries as sparse attention leaves them, for the probes of gathers and of the backward.
#pragma once

#include "probe.hpp"

enum class Draw { kRandom, kSorted, kLocal };

struct alignas(8) Entry {
  uint32_t key;
  float base;
};

/// `each` entries a query, keys of its own head. Local: from the 2 each + 32 keys before the query, one in 16 from the
/// first four keys of the head.
static __global__ void draw_lists(Entry* lists, size_t rows, int n, int each, Draw draw) {
  for (size_t at = blockIdx.x * size_t(blockDim.x) + threadIdx.x; at < rows * each;
       at += size_t(gridDim.x) * blockDim.x) {
    const int e = int(at % each), i = int(at / each % n);
    uint32_t key = probe::below(11, at, n);
    if (draw == Draw::kSorted) key = uint32_t((uint64_t(e) * n + key) / each);
    if (draw == Draw::kLocal) {
      const int back = int(probe::below(12, at, min(2 * each + 32, i + 1)));
      key = probe::below(13, at, 16) ? uint32_t(i - back) : probe::below(14, at, 4);
    }
    lists[at] = {key, 0.25f + 0.5f * float(probe::below(15, at, 4096)) / 4096};
  }
}

inline const char* name_of(Draw draw) {
  return draw == Draw::kRandom ? "random" : draw == Draw::kSorted ? "sorted" : "local";
}
