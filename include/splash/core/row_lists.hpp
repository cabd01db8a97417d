// What the forward of a sparse normalizer leaves of each row for the backward: the keys with weight.
#pragma once

#include <cstdint>

#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN

/// Room for so many keys a row; the rows of a block share it.
inline constexpr int kListedKeys = 60;
/// Neighbouring rows of one head that are a block; the last one of a head may be shorter.
inline constexpr int kListBlock = 32;
/// Length of a row that has weights, but no list.
inline constexpr uint32_t kUnlisted = ~0u;

/// Planes of (B, Hq, Nq) numbers of 4 bytes: two of the normalizer, where a row's list begins in that of its block, how
/// long it is; then pairs of planes, keys and their raw scores. The candidates of a row lie in its column of these
/// planes until its list is made of them (candidates.hpp).
inline constexpr int kListPlanes = 4 + 2 * kListedKeys;

/// Lists in the tensor of planes. A list's entry n is `begin + n` of its block: block after block has its rows' columns
/// in each of the planes, so that whatever rearranges whole heads keeps lists whole.
struct RowLists {
  uint32_t* planes;
  int64_t rows;  ///< B * Hq * Nq

  SPLASH_HD uint32_t& begin(int64_t row) const { return planes[2 * rows + row]; }
  SPLASH_HD uint32_t& length(int64_t row) const { return planes[3 * rows + row]; }

  /// first, count: rows of the block. Of the key; its raw score lies `rows` behind it.
  SPLASH_HD uint32_t* entry(int64_t first, int count, uint32_t n) const {
    const uint32_t plane = count == kListBlock ? n / kListBlock : n / uint32_t(count);
    return planes + (4 + 2 * plane) * rows + first + (n - plane * count);
  }
};

SPLASH_NAMESPACE_END
