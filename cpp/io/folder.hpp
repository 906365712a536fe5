// The JSON files of a checkpoint folder, checked.
#pragma once

#include <string>
#include <vector>

#include "sparlow/checkpoint.hpp"

namespace sparlow::io {

// What sparlow.json says of one shard.
struct ShardRecord {
  std::string name;
  std::uint64_t bytes = 0;
};

// The shards of sparlow.json, the last file of a save. Throws Error(invalid_argument) without it.
std::vector<ShardRecord> read_manifest(const std::string& folder);
// The table of quantization_config in config.json; tensors and dtype are still missing.
std::vector<StoredLayer> read_layer_table(const std::string& folder);

}  // namespace sparlow::io
