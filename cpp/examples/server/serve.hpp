// The server as a function: what main() calls once it has an engine.
#pragma once

#include "llama/engine.hpp"
#include "server/options.hpp"

namespace serve {

// Prints the address, answers until SIGINT or SIGTERM and returns when every request is answered or ended.
// Throws std::runtime_error when it cannot listen or the engine failed.
void serve(const Options& options, llama::Engine& engine);

}  // namespace serve
