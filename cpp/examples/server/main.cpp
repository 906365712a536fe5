// An HTTP server with OpenAI's /v1/completions around the Llama example.
#include <cstdio>
#include <exception>
#include <string>

#include "server/serve.hpp"

int main(int count, char** words) {
  if (count == 2 && std::string(words[1]) == "--help") {
    std::fputs(serve::usage().c_str(), stdout);
    return 0;
  }
  try {
    const serve::Options options = serve::parse_options(count, words);
    llama::EngineOptions engine;
    engine.device = options.device;
    engine.dtype = options.dtype;
    engine.threads = options.threads;
    engine.slots = options.slots;
    engine.context = options.context;
    const auto made = llama::make_engine(options.folder, engine);
    serve::serve(options, *made);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sparlow-server: %s\n", error.what());
    return 1;
  }
  return 0;
}
