// Candidates: the keys of a row that may have weight, found by one kernel and weighed by the next.
#pragma once

#include <cstdint>

#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN

/// Of every row of a (B, Hq, Nq) tensor: up to kCandidates rows of k, in kCandidateParts lists, each ascending, that a
/// thread of a quad wrote. One that found more says kTooMany, and the row is left to kernels that need no lists.
inline constexpr int kCandidateParts = 4, kCandidatesAPart = 32, kCandidates = kCandidateParts * kCandidatesAPart;
inline constexpr unsigned kTooMany = 255;

/// Rows that a flag speaks for.
inline constexpr int kFlaggedRows = 64;

struct CandidateLists {
  uint32_t* keys;         ///< (B * Hq * Nq, kCandidateParts, kCandidatesAPart)
  unsigned char* counts;  ///< (B * Hq * Nq, kCandidateParts)
  unsigned char* flags;   ///< (B * Hq, ceil(Nq / kFlaggedRows)): a row among these had too many
  int* any_flag;

  SPLASH_HD static int chunks(int num_queries) { return (num_queries + kFlaggedRows - 1) / kFlaggedRows; }
};

SPLASH_NAMESPACE_END
