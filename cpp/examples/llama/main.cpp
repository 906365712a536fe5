// Generates from token ids. See options.cpp for the usage.
#include <iostream>
#include <map>

#include "bench.hpp"
#include "model.hpp"
#include "options.hpp"

namespace llama {
namespace {

std::unique_ptr<Engine> engine_of(const Options& options) {
  if (options.random.empty()) return make_engine(options.folder, options.engine);
  RandomOptions random{options.random, options.dense, options.rank};
  if (options.engine.dtype != "auto") random.dtype = dtype_named(options.engine.dtype);
  return make_engine(std::shared_ptr<const Weights>(random_weights(random)), options.engine);
}

// As many prompts at a time as there are slots; answers in the order of the prompts.
std::vector<std::vector<int>> generate(Engine& engine, const Options& options) {
  std::vector<std::vector<int>> answers(options.prompts.size());
  std::map<int, std::size_t> prompt_of_slot;
  for (std::size_t next = 0; next < answers.size() || !prompt_of_slot.empty();) {
    for (; next < answers.size() && prompt_of_slot.size() < static_cast<std::size_t>(engine.slots()); ++next)
      prompt_of_slot[engine.add(options.prompts[next], options.sampling, options.tokens)] = next;
    for (const Step& step : engine.step()) {
      answers[prompt_of_slot.at(step.slot)].push_back(step.token);
      if (!step.last) continue;
      engine.remove(step.slot);
      prompt_of_slot.erase(step.slot);
    }
  }
  return answers;
}

void print(const std::vector<int>& tokens) {
  for (std::size_t i = 0; i < tokens.size(); ++i) std::cout << (i == 0 ? "" : ",") << tokens[i];
  std::cout << "\n";
}

int run(int count, const char* const* arguments) {
  const Options options = parse_options(count, arguments);
  const std::unique_ptr<Engine> engine = engine_of(options);
  if (options.bench) bench(*engine, options, std::cout);
  for (const std::vector<int>& answer : generate(*engine, options)) print(answer);
  return 0;
}

}  // namespace
}  // namespace llama

int main(int count, char** arguments) try {
  if (count == 2 && std::string(arguments[1]) == "--help") {
    std::cout << llama::kUsage;
    return 0;
  }
  return llama::run(count, arguments);
} catch (const llama::Usage& usage) {
  std::cerr << "llama: " << usage.what() << "; llama --help lists the options\n";
  return 2;
} catch (const std::exception& error) {
  std::cerr << "llama: " << error.what() << "\n";
  return 1;
}
