#pragma once

#include <iosfwd>

#include "engine.hpp"
#include "options.hpp"

namespace llama {

// Prompts of options.bench_prompt tokens in every slot, then options.tokens tokens for each, as one line of JSON.
void bench(Engine& engine, const Options& options, std::ostream& out);

}  // namespace llama
