// Texts made of parts, without a locale and without iostreams: where a library brings its own copy of libstdc++ beside
// Torch's, streams of one copy meet the locale of the other and crash.
#pragma once

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

namespace splash::kernels {

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char part) { text += part; }

/// Numbers in their shortest form that reads back as the same number; nan, inf and -inf.
template <class Number>
  requires(std::integral<Number> || std::floating_point<Number>)
void append(std::string& text, Number part) {
  static_assert(!std::same_as<Number, bool>, "a bool has no one spelling");
  char digits[64];
  text.append(digits, std::to_chars(digits, digits + sizeof digits, part).ptr);
}

/// Strings, characters and numbers, one after the other.
template <class... Parts>
std::string join(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

}  // namespace splash::kernels
