#include "io/json.hpp"

#include <algorithm>
#include <charconv>

#include "io/utf8.hpp"

namespace sparlow::io {
namespace {

constexpr int kDeepest = 128;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {
    if (const std::size_t bad = invalid_utf8(text); bad != text.size()) {
      at_ = bad;
      refuse("not UTF-8");
    }
  }

  Json document() {
    Json value = parse(1);
    blanks();
    if (at_ != text_.size()) refuse("something follows the value");
    return value;
  }

 private:
  [[noreturn]] void refuse(const std::string& what, bool duplicate = false) const {
    throw JsonError(what + " at byte " + std::to_string(at_), duplicate);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool digit() const { return peek() >= '0' && peek() <= '9'; }

  bool take(char wanted) {
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void expect(char wanted) {
    if (!take(wanted)) refuse(std::string("expected '") + wanted + "'");
  }

  void blanks() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  Json parse(int depth) {
    blanks();
    switch (peek()) {
      case '{':
      case '[':
        if (depth > kDeepest) refuse("nested more than 128 levels deep");
        return peek() == '{' ? object(depth) : array(depth);
      case '"': return string_value();
      case 't': return word("true", Json::Kind::boolean, true);
      case 'f': return word("false", Json::Kind::boolean, false);
      case 'n': return word("null", Json::Kind::null, false);
      default: return number();
    }
  }

  Json word(std::string_view name, Json::Kind kind, bool value) {
    if (text_.substr(at_, name.size()) != name) refuse("unknown word");
    at_ += name.size();
    Json json;
    json.kind = kind;
    json.boolean = value;
    return json;
  }

  Json string_value() {
    Json json;
    json.kind = Json::Kind::string;
    json.string = string();
    return json;
  }

  Json array(int depth) {
    Json json;
    json.kind = Json::Kind::array;
    expect('[');
    blanks();
    if (take(']')) return json;
    do {
      json.items.push_back(parse(depth + 1));
      blanks();
    } while (take(','));
    expect(']');
    return json;
  }

  Json object(int depth) {
    Json json;
    json.kind = Json::Kind::object;
    expect('{');
    blanks();
    if (take('}')) return json;
    do {
      blanks();
      std::string key = string();
      blanks();
      expect(':');
      json.members.emplace_back(std::move(key), parse(depth + 1));
      blanks();
    } while (take(','));
    expect('}');
    refuse_repeated(json);
    return json;
  }

  void refuse_repeated(const Json& object) const {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : object.members) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) refuse("duplicate key '" + std::string(*twice) + "' in an object that ends", true);
  }

  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) refuse("a string does not end");
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) refuse("a control character in a string");
      ++at_;
      if (c == '"') return out;
      if (c == '\\') escape(out);
      else out += c;
    }
  }

  void escape(std::string& out) {
    constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    const char c = peek();
    if (c == 'u') {
      ++at_;
      append_utf8(code_point(), out);
      return;
    }
    const std::size_t which = at_ < text_.size() ? letters.find(c) : std::string_view::npos;
    if (which == std::string_view::npos) refuse("unknown escape");
    ++at_;
    out += meanings[which];
  }

  std::uint32_t hex4() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      const std::size_t digit = std::string_view("0123456789abcdef").find(c >= 'A' && c <= 'F' ? c + 32 : c);
      if (at_ >= text_.size() || digit == std::string_view::npos) refuse("\\u needs four hexadecimal digits");
      value = value * 16 + static_cast<std::uint32_t>(digit);
      ++at_;
    }
    return value;
  }

  std::uint32_t code_point() {
    const std::uint32_t high = hex4();
    if (high < 0xd800 || high > 0xdfff) return high;
    if (high > 0xdbff || !take('\\') || !take('u')) refuse("a lone surrogate");
    const std::uint32_t low = hex4();
    if (low < 0xdc00 || low > 0xdfff) refuse("a lone surrogate");
    return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
  }

  void digits() {
    if (!digit()) refuse("expected a value");
    while (digit()) ++at_;
  }

  Json number() {
    const std::size_t begin = at_;
    const bool negative = take('-');
    if (!take('0')) digits();
    bool whole = !negative;
    if (take('.')) whole = false, digits();
    if (take('e') || take('E')) {
      whole = false;
      if (!take('+')) take('-');
      digits();
    }
    Json json;
    json.kind = Json::Kind::number;
    const char *first = text_.data() + begin, *last = text_.data() + at_;
    std::from_chars(first, last, json.number);
    if (!whole) return json;
    const auto [end, error] = std::from_chars(first, last, json.natural);
    if (error == std::errc{} && json.natural >> 63 == 0) json.kind = Json::Kind::natural;
    return json;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view name) const {
  for (const auto& [key, value] : members)
    if (key == name) return &value;
  return nullptr;
}

Json parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace sparlow::io
