// The JSON files beside the weights, kept for the embedder's questions.
#pragma once

#include <string>
#include <string_view>

#include "io/json.hpp"
#include "sparlow/checkpoint.hpp"

namespace sparlow::io {

class ConfigFiles {
 public:
  // config.json must be there, generation_config.json may.
  explicit ConfigFiles(const std::string& folder);
  const Json& config() const { return config_; }
  // See Checkpoint::value.
  ConfigValue value(std::string_view file, std::string_view pointer) const;

 private:
  Json config_, generation_;
};

}  // namespace sparlow::io
