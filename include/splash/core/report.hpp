// Refusals with texts that are made when they are needed, and how they reach the caller.
#pragma once

#include <string>
#include <utility>

#include "splash/core/arguments.hpp"

namespace splash {

/// An empty one means that there is nothing to refuse.
struct Fault {
  StatusCode code = StatusCode::ok;
  std::string reason;
  explicit operator bool() const { return code != StatusCode::ok; }
};

/// The text, for as long as this thread has no other one.
inline const char* keep(std::string text) {
  thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

inline Status report(StatusCode code, std::string reason) { return {code, keep(std::move(reason))}; }
inline Status report(Fault fault) { return report(fault.code, std::move(fault.reason)); }

}  // namespace splash
