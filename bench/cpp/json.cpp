#include "json.hpp"

#include <array>
#include <cmath>
#include <cstdio>

namespace sparlow::bench {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    std::array<char, 8> escape{};
    if (static_cast<unsigned char>(c) < 0x20) {
      std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
      out += escape.data();
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

}  // namespace

Json& Json::add_raw(std::string_view name, const std::string& value) {
  if (!members_.empty()) members_ += ", ";
  members_ += quoted(name) + ": " + value;
  return *this;
}

Json& Json::add(std::string_view name, std::string_view text) { return add_raw(name, quoted(text)); }

Json& Json::add(std::string_view name, double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return add_raw(name, std::isfinite(value) ? text.data() : "null");
}

}  // namespace sparlow::bench
