// The model as clients see it: its name, its limits, and how it reads and writes text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/tokenizer.hpp"

namespace serve {

struct Model {
  std::string name;
  int vocabulary = 0;
  int context = 0;
  std::int64_t created = 0;                    // seconds since 1970
  std::unique_ptr<const Tokenizer> tokenizer;  // null: token ids only
  std::string no_text;                         // then: why
};

}  // namespace serve
