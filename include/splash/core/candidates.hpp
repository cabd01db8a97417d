// Candidates: the keys of a row that may have weight, found by one kernel and weighed by the next.
#pragma once

#include <cstdint>

#include "splash/core/row_lists.hpp"

SPLASH_NAMESPACE_BEGIN

/// Of every row of a (B, Hq, Nq) tensor: rows of k in kCandidateParts lists, each ascending, that a thread of a quad
/// wrote. Two lists share kCandidatesAPair places, the second one from their end. Where these are too few both say
/// kTooMany, and the row is left to kernels that need no lists.
inline constexpr int kCandidateParts = 4, kCandidatesAPair = kListedKeys,
                     kCandidates = kCandidateParts / 2 * kCandidatesAPair;
inline constexpr unsigned kTooMany = 255;

/// Place of entry n of a list among those of its row.
SPLASH_HD constexpr int candidate_place(int part, int n) {
  return part / 2 * kCandidatesAPair + (part % 2 ? kCandidatesAPair - 1 - n : n);
}

/// Rows that a flag speaks for.
inline constexpr int kFlaggedRows = 64;

struct CandidateLists {
  uint32_t* keys;         ///< (kCandidates, B * Hq * Nq)
  int64_t rows;           ///< B * Hq * Nq
  unsigned char* counts;  ///< (B * Hq * Nq, kCandidateParts)
  unsigned char* flags;   ///< (B * Hq, ceil(Nq / kFlaggedRows)): a row among these had too many
  int* any_flag;

  SPLASH_HD static int chunks(int num_queries) { return (num_queries + kFlaggedRows - 1) / kFlaggedRows; }
};

SPLASH_NAMESPACE_END
