#include "io/config.hpp"

#include <unistd.h>

#include <charconv>

#include "io/folder.hpp"
#include "sparlow/error.hpp"

namespace sparlow::io {
namespace {

// A key of a pointer: ~1 stands for '/', ~0 for '~'.
std::string unescape(std::string_view key, std::string_view pointer) {
  std::string out;
  for (std::size_t i = 0; i < key.size(); ++i) {
    if (key[i] != '~') {
      out += key[i];
      continue;
    }
    require(i + 1 < key.size() && (key[i + 1] == '0' || key[i + 1] == '1'), "the JSON pointer '", pointer,
            "' has a '~' that is neither ~0 nor ~1");
    out += key[++i] == '0' ? '~' : '/';
  }
  return out;
}

const Json* item(const Json& array, const std::string& key) {
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
  const bool number = error == std::errc{} && end == key.data() + key.size() && (key.size() == 1 || key[0] != '0');
  return number && index < array.items.size() ? &array.items[index] : nullptr;
}

const Json* find(const Json& root, std::string_view pointer) {
  require(pointer.empty() || pointer[0] == '/', "the JSON pointer '", pointer, "' does not begin with '/'");
  const Json* at = &root;
  for (std::size_t begin = 1; begin <= pointer.size();) {
    const std::size_t end = std::min(pointer.find('/', begin), pointer.size());
    const std::string key = unescape(pointer.substr(begin, end - begin), pointer);
    if (at != nullptr) at = at->is(Json::Kind::array) ? item(*at, key) : at->find(key);
    begin = end + 1;
  }
  return at;
}

ConfigValue::Kind kind_of(const Json& json) {
  switch (json.kind) {
    case Json::Kind::null: return ConfigValue::Kind::null;
    case Json::Kind::boolean: return ConfigValue::Kind::boolean;
    case Json::Kind::natural:
    case Json::Kind::number: return ConfigValue::Kind::number;
    case Json::Kind::string: return ConfigValue::Kind::string;
    case Json::Kind::array: return ConfigValue::Kind::array;
    case Json::Kind::object: return ConfigValue::Kind::object;
  }
  return ConfigValue::Kind::absent;
}

}  // namespace

ConfigFiles::ConfigFiles(const std::string& folder) : config_(read_object(folder + "/config.json")) {
  const std::string generation = folder + "/generation_config.json";
  if (::access(generation.c_str(), F_OK) == 0) generation_ = read_object(generation);
}

ConfigValue ConfigFiles::value(std::string_view file, std::string_view pointer) const {
  require(file == "config.json" || file == "generation_config.json", "'", file,
          "' is not kept; ask for config.json or generation_config.json");
  const Json& root = file == "config.json" ? config_ : generation_;
  const Json* found = find(root, pointer);
  ConfigValue out;
  if (found == nullptr || root.is(Json::Kind::null)) return out;  // null: there is no such file
  out.kind = kind_of(*found);
  out.boolean = found->boolean;
  out.number = found->number;
  if (found->is(Json::Kind::natural)) out.whole = static_cast<std::int64_t>(found->natural);
  if (found->is(Json::Kind::string)) out.text = &found->string;
  out.items = static_cast<Index>(found->items.size() + found->members.size());
  return out;
}

}  // namespace sparlow::io
