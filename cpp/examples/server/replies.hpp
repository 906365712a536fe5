// JSON of the answers.
#pragma once

#include <string>
#include <vector>

#include "server/completion.hpp"

namespace serve {

// What all pieces of one answer have in common.
struct Label {
  std::string id;
  std::int64_t created = 0;  // seconds since 1970
  std::string model;
};

Label make_label(const Model& model);

struct Piece {
  std::string text;
  std::vector<int> tokens;
  const char* finish_reason = nullptr;  // "stop", "length" or none yet
};

Json completion_json(const Label& label, const Piece& piece);
Json usage_json(std::size_t prompt, std::size_t answer);
Json model_json(const Model& model);
Json models_json(const Model& model);

// One server-sent event.
std::string sse(const std::string& data);

}  // namespace serve
