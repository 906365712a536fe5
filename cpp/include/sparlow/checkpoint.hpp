// Checkpoint folders as `sparlow.save` writes them, mapped into memory: config.json, safetensors shards, sparlow.json.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sparlow/export.hpp"
#include "sparlow/layer.hpp"

namespace sparlow {

struct StoredTensor {
  std::string name;
  std::string dtype;  // as safetensors spells it: BF16, F16, F32, U8, ...
  std::vector<Index> shape;
  const void* data = nullptr;
  std::int64_t bytes = 0;
};

// The tensors of a safetensors file of `size` bytes at `data`, which must outlive them. `name` is for messages.
// Throws Error(invalid_argument) with one fault: bad header, duplicate key, unknown type, hole, overlap, wrong size.
SPARLOW_API std::vector<StoredTensor> read_safetensors(std::string_view name, const void* data, std::size_t size);

struct StoredLayer {
  std::string name;     // of the module, as in the model: "model.layers.0.mlp.up_proj"
  std::string pattern;  // what the solver was allowed to keep: "2:4"
  LayerShape shape;
  LayerTensors tensors;
  Index sign_rank = 0;  // of a signed term beside s + u v, which `Layer` does not run
};

// A place in a JSON file. What it points to lives as long as the checkpoint.
struct ConfigValue {
  enum class Kind { absent, null, boolean, number, string, array, object };
  Kind kind = Kind::absent;
  bool boolean = false;
  double number = 0;
  std::int64_t whole = -1;            // a number without sign, fraction or exponent; -1 for every other value
  const std::string* text = nullptr;  // of a string
  Index items = 0;                    // of an array or object
};

class SPARLOW_API Checkpoint {
 public:
  // Throws Error(io) for files that cannot be read, Error(invalid_argument) for a folder that is no finished
  // checkpoint, is newer than this library, or whose files disagree.
  static std::shared_ptr<const Checkpoint> open(const std::string& folder);
  // The same, or a plain folder without compressed layers: config.json and model.safetensors, or the shards that
  // model.safetensors.index.json names.
  static std::shared_ptr<const Checkpoint> open_model(const std::string& folder);
  virtual ~Checkpoint() = default;

  virtual const std::vector<StoredLayer>& layers() const = 0;  // in the order of config.json
  // Every tensor of every shard, those of layers too, by name in ascending order.
  virtual const std::vector<StoredTensor>& tensors() const = 0;
  // What config.json or generation_config.json says at a JSON pointer (RFC 6901): "/rope_parameters/rope_theta".
  // Throws Error(invalid_argument) for another file and for a pointer that neither is empty nor begins with '/'.
  virtual ConfigValue value(std::string_view file, std::string_view pointer) const = 0;
  // Null when there is none of that name.
  const StoredTensor* find_tensor(std::string_view name) const;
  // Throws Error(invalid_argument) for a name that is not in the table.
  const StoredLayer& layer(std::string_view name) const;
};

}  // namespace sparlow
