// A strict JSON reader (RFC 8259): UTF-8, no duplicate keys, no lone surrogates, at most 128 levels, nothing after the
// value but blanks. Whole numbers stay exact; every other number is kept as a double.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sparlow::io {

// Says what is wrong and at which byte; `duplicate` when the text is JSON apart from a repeated key.
class JsonError : public std::runtime_error {
 public:
  JsonError(const std::string& what, bool duplicate) : std::runtime_error(what), duplicate(duplicate) {}
  bool duplicate;
};

struct Json {
  enum class Kind { null, boolean, natural, number, string, array, object };

  Kind kind = Kind::null;
  bool boolean = false;
  std::uint64_t natural = 0;  // a number without sign, fraction or exponent, below 2^63
  double number = 0;          // any number
  std::string string;
  std::vector<Json> items;                            // of an array
  std::vector<std::pair<std::string, Json>> members;  // of an object, in the order of the text

  // The member of that name; null when this is no object or has none.
  const Json* find(std::string_view name) const;
  bool is(Kind wanted) const { return kind == wanted; }
};

Json parse_json(std::string_view text);

}  // namespace sparlow::io
