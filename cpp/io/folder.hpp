// The JSON files of a checkpoint folder, checked.
#pragma once

#include <string>
#include <vector>

#include "io/json.hpp"
#include "sparlow/checkpoint.hpp"

namespace sparlow::io {

// What sparlow.json says of one shard.
struct ShardRecord {
  std::string name;
  std::uint64_t bytes = 0;
};

// A JSON file that holds an object.
Json read_object(const std::string& path);

// The shards of sparlow.json, the last file of a save. Throws Error(invalid_argument) without it.
std::vector<ShardRecord> read_manifest(const std::string& folder);
// The table of quantization_config in a config.json; tensors and dtype are still missing.
std::vector<StoredLayer> read_layer_table(const std::string& path, const Json& config);
// Whether a config.json is one of a checkpoint with compressed layers.
bool is_compressed(const Json& config);

// The files of a plain model folder: of its index and the tensors that this promises, or model.safetensors.
struct PlainShards {
  std::vector<std::string> names, tensors;
};
PlainShards read_plain_shards(const std::string& folder);

}  // namespace sparlow::io
