// safetensors: 8 bytes little-endian header length, JSON header, the tensors' bytes back to back. As strict as the
// reference reader, and stricter about duplicate keys. python/sparlow/shards.py gives the same verdicts.
#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "io/json.hpp"
#include "sparlow/checkpoint.hpp"
#include "sparlow/error.hpp"

namespace sparlow {
namespace {

using io::Json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

constexpr std::array<std::pair<std::string_view, std::uint64_t>, 22> kBits = {
    {{"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
     {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"U16", 16},    {"I16", 16},    {"F16", 16},    {"BF16", 16},
     {"U32", 32},        {"I32", 32},        {"F32", 32},    {"U64", 64},    {"I64", 64},    {"F64", 64},
     {"C64", 64},        {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}}};

class Reader {
 public:
  Reader(std::string_view name, const void* data, std::size_t size)
      : name_(name), bytes_(static_cast<const unsigned char*>(data)), size_(size) {}

  std::vector<StoredTensor> read() {
    const Json header = parse(header_text());
    std::vector<StoredTensor> tensors;
    for (const auto& [name, value] : header.members)
      if (name != "__metadata__") tensors.push_back(entry(name, value));
    check_places(tensors);
    return tensors;
  }

 private:
  template <typename... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(ErrorCode::invalid_argument, "shard ", name_, ": ", parts...);
  }

  std::string_view header_text() {
    std::uint64_t length = 0;
    for (std::size_t i = std::min<std::size_t>(size_, 8); i-- > 0;) length = length << 8 | bytes_[i];
    if (size_ < 8 || length > kMaxHeaderBytes || length > size_ - 8)
      refuse("its header claims ", length, " bytes but the file has ", size_, ": truncated or not safetensors");
    data_ = 8 + length;
    return {reinterpret_cast<const char*>(bytes_) + 8, length};
  }

  Json parse(std::string_view text) const {
    Json header = parse_text(text);
    if (!header.is(Json::Kind::object)) refuse("its header is not a JSON object");
    if (const Json* metadata = header.find("__metadata__")) {
      bool strings = metadata->is(Json::Kind::object);
      for (const auto& [key, value] : metadata->members) strings &= value.is(Json::Kind::string);
      if (!strings) refuse("__metadata__ must map names to strings");
    }
    return header;
  }

  Json parse_text(std::string_view text) const {
    try {
      return io::parse_json(text);
    } catch (const io::JsonError& error) {
      if (error.duplicate) refuse(error.what(), " of its header");
      refuse("its header is not valid JSON: ", error.what());
    }
  }

  static std::optional<std::vector<Index>> naturals(const Json* value) {
    if (value == nullptr || !value->is(Json::Kind::array)) return std::nullopt;
    std::vector<Index> numbers;
    for (const Json& item : value->items) {
      if (!item.is(Json::Kind::natural)) return std::nullopt;
      numbers.push_back(static_cast<Index>(item.natural));
    }
    return numbers;
  }

  // Bytes of a tensor; nothing when they do not come out whole or do not fit 64 bits.
  static std::optional<std::uint64_t> bytes_of(std::uint64_t bits, const std::vector<Index>& shape) {
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
    for (const Index extent : shape)
      if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(extent), &bits)) return std::nullopt;
    return bits % 8 ? std::nullopt : std::optional(bits / 8);
  }

  StoredTensor entry(const std::string& name, const Json& value) const {
    if (!value.is(Json::Kind::object)) refuse("entry '", name, "' is not an object");
    const auto shape = naturals(value.find("shape")), offsets = naturals(value.find("data_offsets"));
    if (!shape || !offsets || offsets->size() != 2) refuse("tensor '", name, "' has a bad shape or data_offsets");
    const Json* dtype = value.find("dtype");
    const std::string text = dtype == nullptr ? "" : dtype->string;
    const auto known = std::find_if(kBits.begin(), kBits.end(), [&](const auto& row) { return row.first == text; });
    if (known == kBits.end()) refuse("tensor '", name, "' has the unknown dtype '", text, "'");
    const auto begin = static_cast<std::uint64_t>((*offsets)[0]), end = static_cast<std::uint64_t>((*offsets)[1]);
    const auto bytes = bytes_of(known->second, *shape);
    if (!bytes || end < begin || *bytes != end - begin)
      refuse("tensor '", name, "' of type ", text, " does not fill its bytes [", begin, ", ", end, "]");
    // Only an offset until check_places has seen that it lies within the file.
    return {name, text, *shape, reinterpret_cast<const void*>(begin), static_cast<std::int64_t>(*bytes)};
  }

  void check_places(std::vector<StoredTensor>& tensors) const {
    const auto begin_of = [](const StoredTensor& t) { return reinterpret_cast<std::uintptr_t>(t.data); };
    std::sort(tensors.begin(), tensors.end(), [&](const StoredTensor& a, const StoredTensor& b) {
      return std::pair(begin_of(a), a.bytes) < std::pair(begin_of(b), b.bytes);
    });
    const std::uint64_t available = size_ - data_;
    std::uint64_t position = 0;
    for (const StoredTensor& tensor : tensors) {
      if (begin_of(tensor) != position)
        refuse("tensor '", tensor.name, "' begins at byte ", begin_of(tensor), " of the data instead of ", position,
               ": hole or overlap");
      position += static_cast<std::uint64_t>(tensor.bytes);
    }
    if (position != available)
      refuse("its tensors end at byte ", position, " of the data but there are ", available, ": truncated or altered");
    for (StoredTensor& tensor : tensors) tensor.data = bytes_ + data_ + begin_of(tensor);
  }

  std::string_view name_;
  const unsigned char* bytes_;
  std::size_t size_;
  std::uint64_t data_ = 0;  // where the tensors' bytes begin
};

}  // namespace

std::vector<StoredTensor> read_safetensors(std::string_view name, const void* data, std::size_t size) {
  return Reader(name, data, size).read();
}

}  // namespace sparlow
