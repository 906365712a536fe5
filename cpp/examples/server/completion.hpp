// The body of POST /v1/completions, read and checked.
#pragma once

#include <string>
#include <vector>

#include "server/errors.hpp"
#include "server/model.hpp"
#include "server/scheduler.hpp"

namespace serve {

struct Completion {
  Job job;
  std::vector<std::string> stop;  // texts that end the answer and are no part of it
  bool stream = false;
  bool include_usage = false;  // of a stream: one more piece with the token counts
};

// Throws ApiError that names the field. Fields that are null count as absent; unknown ones are refused, and so are
// known ones that ask for what the server does not do.
Completion parse_completion(const std::string& body, const Model& model);

}  // namespace serve
