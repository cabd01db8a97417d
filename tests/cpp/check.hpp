// The smallest test harness that serves: counts checks, prints the first failures, and main returns summary().
#pragma once

#include <cstdio>

namespace check {

inline long passed = 0;
inline long failed = 0;

template <class... Arguments>
bool that(bool condition, const char* format, Arguments... arguments) {
  if (condition) return ++passed, true;
  if (++failed <= 20) {
    std::printf("FAILED: ");
    std::printf(format, arguments...);
    std::printf("\n");
  }
  return false;
}

inline int summary(const char* name) {
  std::printf("%s: %ld checks passed, %ld failed\n", name, passed, failed);
  return failed ? 1 : 0;
}

}  // namespace check
