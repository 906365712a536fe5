#include "server/serve.hpp"

#include <chrono>
#include <cstdio>
#include <filesystem>

#include "server/service.hpp"

namespace serve {
namespace {

Model describe(const Options& options, const llama::Engine& engine) {
  Model model;
  model.name = options.name;
  model.vocabulary = engine.vocabulary();
  model.context = engine.context();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  model.created = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  const auto file = std::filesystem::path(options.folder) / "tokenizer.json";
  try {
    if (std::filesystem::exists(file)) model.tokenizer = std::make_unique<const Tokenizer>(file.string());
    else model.no_text = options.folder + " has no tokenizer.json";
  } catch (const std::runtime_error& error) {
    model.no_text = error.what();
  }
  return model;
}

}  // namespace

void serve(const Options& options, llama::Engine& engine) {
  const Model model = describe(options, engine);
  if (!model.tokenizer) std::fprintf(stderr, "prompts must be token ids: %s\n", model.no_text.c_str());
  Service service(options, model, engine);
  const bool brackets = options.host.find(':') != std::string::npos;
  std::printf("%s is ready on http://%s%s%s:%d\n", model.name.c_str(), brackets ? "[" : "", options.host.c_str(),
              brackets ? "]" : "", service.port());
  std::fflush(stdout);
  service.run();
}

}  // namespace serve
