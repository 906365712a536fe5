// The server around an engine whose answers anyone can compute: expected_tokens() of server_process.py does.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "server/serve.hpp"

namespace {

int setting(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::stoi(text) : otherwise;
}

std::uint64_t mixed(std::uint64_t state, std::uint64_t value) { return state * 6364136223846793005u + value + 1; }

class FakeEngine : public llama::Engine {
 public:
  explicit FakeEngine(const serve::Options& options)
      : slots_(options.slots),
        context_(options.context),
        vocabulary_(setting("FAKE_VOCABULARY", 1000)),
        end_(setting("FAKE_END", -1)),
        milliseconds_(setting("FAKE_STEP_MS", 0)) {}

  int vocabulary() const override { return vocabulary_; }
  int context() const override { return context_; }
  int slots() const override { return slots_; }

  int add(std::span<const int> prompt, const llama::Sampling& sampling, int max_tokens) override {
    if (prompt.size() == 2 && prompt[0] == 13 && prompt[1] == 1) throw std::invalid_argument("no luck with 13 1");
    int slot = 0;
    while (running_.contains(slot)) ++slot;
    if (slot == slots_) throw llama::Full("no slot is free");
    std::uint64_t state = sampling.temperature > 0 ? sampling.seed : 0;
    for (const int token : prompt) state = mixed(state, token);
    const int room = context_ - static_cast<int>(prompt.size());
    running_[slot] = {state, std::min(max_tokens, room), prompt.size() == 2 && prompt[0] == 13 && prompt[1] == 13};
    return slot;
  }

  void remove(int slot) override {
    if (!running_.erase(slot)) throw std::invalid_argument("slot is free");
  }

  std::span<const llama::Step> step() override {
    if (milliseconds_) std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds_));
    steps_.clear();
    for (auto& [slot, answer] : running_) {
      if (answer.fails) throw std::runtime_error("out of luck");
      answer.state = mixed(answer.state, 7);
      const int token = static_cast<int>((answer.state >> 33) % static_cast<std::uint64_t>(vocabulary_));
      steps_.push_back({slot, token, --answer.left == 0 || token == end_});
    }
    return steps_;
  }

 private:
  struct Answer {
    std::uint64_t state;
    int left;
    bool fails;
  };

  int slots_, context_, vocabulary_, end_, milliseconds_;
  std::map<int, Answer> running_;
  std::vector<llama::Step> steps_;
};

}  // namespace

int main(int count, char** words) {
  try {
    const serve::Options options = serve::parse_options(count, words);
    FakeEngine engine(options);
    serve::serve(options, engine);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fake_server: %s\n", error.what());
    return 1;
  }
  return 0;
}
