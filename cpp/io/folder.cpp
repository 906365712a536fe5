#include "io/folder.hpp"

#include <unistd.h>

#include <array>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>

#include "io/mapped_file.hpp"
#include "sparlow/error.hpp"

namespace sparlow::io {
namespace {

constexpr std::uint64_t kFormatVersion = 1;
constexpr Index kMost = std::numeric_limits<std::int32_t>::max();

void check_version(const std::string& path, const Json* version) {
  require(version != nullptr && version->is(Json::Kind::natural) && version->natural >= 1, path,
          " has no valid format_version");
  require(version->natural <= kFormatVersion, "this checkpoint has format version ", version->natural,
          ", this library reads up to ", kFormatVersion, ": install a newer sparlow");
}

std::optional<Index> natural(const Json* value) {
  if (value == nullptr || !value->is(Json::Kind::natural)) return std::nullopt;
  return static_cast<Index>(value->natural);
}

class Entry {
 public:
  Entry(const std::string& name, const Json& json) : name_(name), json_(json) {
    constexpr std::array<std::string_view, 6> kKnown = {"format", "pattern", "rank", "shape", "nnz", "sign_rank"};
    if (!json.is(Json::Kind::object)) refuse("it is not an object");
    for (const auto& [key, value] : json.members) {
      bool known = false;
      for (const std::string_view name : kKnown) known |= key == name;
      if (!known) refuse("unknown key '", key, "'");
    }
  }

  StoredLayer layer() const {
    StoredLayer layer;
    layer.name = name_;
    layer.pattern = text("pattern");
    layer.shape.format = format();
    const Json* shape = json_.find("shape");
    if (shape == nullptr || shape->items.size() != 2) refuse("shape must be [d_out, d_in]");
    layer.shape.d_out = number("d_out", &shape->items[0], 1, kMost);
    layer.shape.d_in = number("d_in", &shape->items[1], 1, kMost);
    layer.shape.rank = number("rank", json_.find("rank"), 0, kMost);
    layer.shape.stored = stored(layer.shape);
    if (const Json* rank = json_.find("sign_rank")) layer.sign_rank = number("sign_rank", rank, 0, kMost);
    return layer;
  }

 private:
  template <typename... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(ErrorCode::invalid_argument, "layer table entry '", name_, "': ", parts...);
  }

  const std::string& text(std::string_view key) const {
    const Json* value = json_.find(key);
    if (value == nullptr || !value->is(Json::Kind::string)) refuse(key, " must be a string");
    return value->string;
  }

  Format format() const {
    const std::string& name = text("format");
    if (name == "nm24") return Format::nm24;
    if (name == "bitmap") return Format::bitmap;
    if (name == "dense") return Format::dense;
    refuse("unknown format '", name, "'; this version knows nm24, bitmap, dense");
  }

  Index number(std::string_view what, const Json* value, Index least, Index most) const {
    const auto found = natural(value);
    if (!found || *found < least || *found > most) refuse(what, " must be a whole number from ", least, " to ", most);
    return *found;
  }

  Index stored(const LayerShape& shape) const {
    const Json* nnz = json_.find("nnz");
    if ((shape.format == Format::bitmap) != (nnz != nullptr))
      refuse("nnz belongs to the bitmap format and to no other");
    if (shape.format == Format::nm24 && shape.d_in % 4 != 0) refuse("nm24 needs d_in divisible by 4");
    if (shape.format == Format::bitmap) return number("nnz", nnz, 0, shape.d_out * shape.d_in);
    return shape.format == Format::nm24 ? shape.d_out * (shape.d_in / 2) : shape.d_out * shape.d_in;
  }

  const std::string& name_;
  const Json& json_;
};

}  // namespace

Json read_object(const std::string& path) {
  const MappedFile file(path);
  try {
    Json json = parse_json(file.text());
    require(json.is(Json::Kind::object), path, " must hold a JSON object");
    return json;
  } catch (const JsonError& error) {
    fail(ErrorCode::invalid_argument, path, " is not valid JSON: ", error.what());
  }
}

std::vector<ShardRecord> read_manifest(const std::string& folder) {
  const std::string path = folder + "/sparlow.json";
  if (::access(folder.c_str(), F_OK) != 0) fail(ErrorCode::io, "no checkpoint folder at ", folder);
  require(::access(path.c_str(), F_OK) == 0, folder,
          " is not a finished sparlow checkpoint: sparlow.json, the last "
          "file of a save, is missing");
  const Json json = read_object(path);
  check_version(path, json.find("format_version"));
  const Json* shards = json.find("shards");
  require(shards != nullptr && shards->is(Json::Kind::object) && !shards->members.empty(), path, " lists no shards");
  std::vector<ShardRecord> records;
  for (const auto& [name, entry] : shards->members) {
    const auto bytes = natural(entry.find("bytes"));
    require(bytes.has_value() && name.find('/') == std::string::npos, path, " is damaged: shard '", name, "'");
    records.push_back({name, static_cast<std::uint64_t>(*bytes)});
  }
  return records;
}

bool is_compressed(const Json& config) {
  const Json* quantization = config.find("quantization_config");
  const Json* method = quantization == nullptr ? nullptr : quantization->find("quant_method");
  return method != nullptr && method->string == "sparlow";
}

std::vector<StoredLayer> read_layer_table(const std::string& path, const Json& config) {
  require(is_compressed(config), path, " has no quantization_config with quant_method 'sparlow'");
  const Json* quantization = config.find("quantization_config");
  check_version(path, quantization->find("format_version"));
  const Json* table = quantization->find("layers");
  require(table != nullptr && table->is(Json::Kind::object), path, ": quantization_config.layers must be an object");
  std::vector<StoredLayer> layers;
  for (const auto& [name, entry] : table->members) layers.push_back(Entry(name, entry).layer());
  return layers;
}

PlainShards read_plain_shards(const std::string& folder) {
  const std::string path = folder + "/model.safetensors.index.json";
  if (::access(path.c_str(), F_OK) != 0) return {{"model.safetensors"}, {}};
  const Json json = read_object(path);
  const Json* map = json.find("weight_map");
  require(map != nullptr && map->is(Json::Kind::object) && !map->members.empty(), path, " has no weight_map");
  PlainShards out;
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->members) {
    const bool plain =
        file.is(Json::Kind::string) && !file.string.empty() && file.string.find('/') == std::string::npos;
    require(plain, path, ": tensor '", tensor, "' has no file name");
    out.tensors.push_back(tensor);
    names.insert(file.string);
  }
  out.names.assign(names.begin(), names.end());
  return out;
}

}  // namespace sparlow::io
