// LongNet's rows: which tokens and heads a part of a branch takes, taken and put back, and how many of them count.
#pragma once

#include "splash/core/half.hpp"
#include "splash/core/math.hpp"

SPLASH_NAMESPACE_BEGIN
namespace patterns::tables {

/// Heads h with h mod rate in [first, first + residues) of a branch, at their tokens, of queries; of keys and values
/// the heads that these read, `group` query heads each. Places in a contiguous (batch, residues, heads, tokens, dim).
struct LongNetShare {
  int64_t segment, rate, first, residues, per_segment;
  int64_t heads, tokens;  ///< of a residue
  int64_t group;
  bool all_heads;  ///< every residue reads every key/value head

  SPLASH_HD int64_t head(int64_t residue, int64_t n) const {
    return all_heads ? n : (first + residue + rate * n) / group;
  }
  SPLASH_HD int64_t token(int64_t residue, int64_t n) const {
    return first + residue + n / per_segment * segment + n % per_segment * rate;
  }
};

/// Where a number of a share lies in the tensor (batch, heads, tokens, dim).
struct LongNetPlace {
  LongNetShare share;
  int64_t batches, dim;
  int64_t stride[4];
  int64_t first_head, heads;  ///< of each residue's, those that are asked for

  SPLASH_HD int64_t count() const { return batches * share.residues * heads * share.tokens * dim; }

  struct Pair {
    int64_t of_share, of_tensor;
  };
  SPLASH_HD Pair at(int64_t n) const {
    const int64_t d = n % dim, token = n / dim % share.tokens, line = n / dim / share.tokens;
    const int64_t head = first_head + line % heads, residue = line / heads % share.residues;
    const int64_t batch = line / heads / share.residues;
    const int64_t in_share = ((batch * share.residues + residue) * share.heads + head) * share.tokens + token;
    return {in_share * dim + d, batch * stride[0] + share.head(residue, head) * stride[1] +
                                    share.token(residue, token) * stride[2] + d * stride[3]};
  }
};

/// Copies a share out of a tensor. Word: an integer as wide as an element.
template <class Word>
struct LongNetTake {
  LongNetPlace place;
  const Word* tensor;
  Word* share;

  SPLASH_HD int64_t count() const { return place.count(); }
  SPLASH_HD void operator()(int64_t n) const {
    const LongNetPlace::Pair at = place.at(n);
    share[at.of_share] = tensor[at.of_tensor];
  }
};

/// Adds a share to a tensor; no two of its numbers may have one place.
template <class Element, class Wide>
struct LongNetAdd {
  LongNetPlace place;
  Element* tensor;
  const Element* share;

  SPLASH_HD int64_t count() const { return place.count(); }
  SPLASH_HD void operator()(int64_t n) const {
    const LongNetPlace::Pair at = place.at(n);
    tensor[at.of_tensor] = Element(Wide(tensor[at.of_tensor]) + Wide(share[at.of_share]));
  }
};

/// How many tokens of each residue lie before each length: (batches, residues).
struct LongNetLengths {
  LongNetShare share;
  const int32_t* lengths;
  int64_t batches;
  int32_t* out;

  SPLASH_HD int64_t count() const { return batches * share.residues; }
  SPLASH_HD void operator()(int64_t n) const {
    const int64_t length = lengths[n / share.residues] < 0 ? 0 : lengths[n / share.residues];
    const int64_t rest = length % share.segment - (share.first + n % share.residues) + share.rate - 1;
    out[n] = int32_t(length / share.segment * share.per_segment + (rest < 0 ? 0 : rest / share.rate));
  }
};

}  // namespace patterns::tables
SPLASH_NAMESPACE_END
