#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sparlow::io {

// Where the text stops being UTF-8 (overlong forms, surrogates and values past U+10FFFF are none); its size if nowhere.
inline std::size_t invalid_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  std::size_t i = 0;
  while (i < text.size()) {
    const unsigned first = byte(i);
    const int more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : 3;
    if (more == 3 && (first < 0xf0 || first > 0xf4)) return i;
    for (int k = 1; k <= more; ++k)
      if ((byte(i + k) & 0xc0) != 0x80) return i;
    const unsigned second = byte(i + 1);
    const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
    if (overlong || (first == 0xed && second > 0x9f) || (first == 0xf4 && second > 0x8f)) return i;
    i += static_cast<std::size_t>(more) + 1;
  }
  return i;
}

inline void append_utf8(std::uint32_t code, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | code >> 12);
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xf0 | code >> 18);
    tail(12), tail(6), tail(0);
  }
}

}  // namespace sparlow::io
