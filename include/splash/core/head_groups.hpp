// Which key/value heads the query heads of a call read.
#pragma once

#include "splash/core/arguments.hpp"
#include "splash/core/config.hpp"

SPLASH_NAMESPACE_BEGIN

/// Key/value heads first + n * step, n < count, each read by the query heads of its group at `first_member` +
/// m * member_step, m < members. count == 0: the heads are spread over groups in another way.
struct HeadGroups {
  int64_t first = 0, step = 1, count = 0;
  int64_t first_member = 0, member_step = 1, members = 1;
};

/// heads: of `all` query heads, `group` of which share a key/value head.
inline HeadGroups groups_of(const HeadRange& heads, int64_t all, int64_t group) {
  if (heads.count == 0) return {0, 1, all / group, 0, 1, group};
  const int64_t first = heads.first / group, member = heads.first % group;
  if (member + (heads.count - 1) * heads.step < group) return {first, 1, 1, member, heads.step, heads.count};
  if (heads.step % group == 0) return {first, heads.step / group, heads.count, member, 1, 1};
  const int64_t members = group / heads.step;
  if (group % heads.step || member >= heads.step || heads.count % members) return {};
  return {first, 1, heads.count / members, member, heads.step, members};
}

SPLASH_NAMESPACE_END
