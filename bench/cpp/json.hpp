// One JSON object on one line, written in the order in which its members are added.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sparlow::bench {

class Json {
 public:
  Json& add(std::string_view name, std::string_view text);
  Json& add(std::string_view name, const char* text) { return add(name, std::string_view(text)); }
  // Six significant digits; null for what JSON has no number for.
  Json& add(std::string_view name, double value);
  Json& add(std::string_view name, std::int64_t value) { return add_raw(name, std::to_string(value)); }
  Json& add(std::string_view name, int value) { return add(name, std::int64_t{value}); }
  Json& add(std::string_view name, const Json& object) { return add_raw(name, object.str()); }

  std::string str() const { return "{" + members_ + "}"; }

 private:
  Json& add_raw(std::string_view name, const std::string& value);
  std::string members_;
};

}  // namespace sparlow::bench
