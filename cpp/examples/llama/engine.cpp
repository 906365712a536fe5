// Continuous batching: every step runs one row for each slot that decodes, and a share of the prompts that wait.
#include "engine.hpp"

#include <algorithm>
#include <string_view>
#include <vector>

#include "model.hpp"
#include "sampler.hpp"

namespace llama {
namespace {

struct Slot {
  bool used = false, done = false;
  std::vector<int> tokens;   // prompt and answer
  std::size_t prompt = 0;    // tokens of the prompt
  std::size_t computed = 0;  // tokens that the cache holds
  std::size_t most = 0;      // tokens when it is full
  Sampling sampling;

  bool waits() const { return used && !done; }
};

class ScheduledEngine final : public Engine {
 public:
  ScheduledEngine(std::shared_ptr<const Weights> weights, std::unique_ptr<Model> model, const Limits& limits,
                  int prefill)
      : weights_(std::move(weights)),
        model_(std::move(model)),
        limits_(limits),
        prefill_(prefill),
        slots_(static_cast<std::size_t>(limits.slots)) {}

  int vocabulary() const override { return weights_->config().vocabulary; }
  int context() const override { return limits_.context; }
  int slots() const override { return limits_.slots; }

  int add(std::span<const int> prompt, const Sampling& sampling, int max_tokens) override {
    check(prompt, max_tokens);
    check_sampling(sampling);
    const auto free = std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.used; });
    if (free == slots_.end()) throw Full("all " + std::to_string(limits_.slots) + " slots are taken");
    *free = Slot();
    free->used = true;
    free->tokens.assign(prompt.begin(), prompt.end());
    free->prompt = prompt.size();
    free->most = std::min(prompt.size() + static_cast<std::size_t>(max_tokens), static_cast<std::size_t>(context()));
    free->sampling = sampling;
    return static_cast<int>(free - slots_.begin());
  }

  void remove(int slot) override {
    if (slot < 0 || slot >= slots() || !slots_[static_cast<std::size_t>(slot)].used)
      throw std::invalid_argument("slot " + std::to_string(slot) + " holds nothing");
    slots_[static_cast<std::size_t>(slot)] = Slot();
  }

  std::span<const Step> step() override {
    steps_.clear();
    while (steps_.empty()) {
      collect();
      if (rows_.empty()) break;
      model_->run(rows_);
      int wanted = 0;
      for (const Row& row : rows_) {
        Slot& slot = slots_[static_cast<std::size_t>(row.slot)];
        ++slot.computed;
        if (row.wanted) answer(row.slot, slot, wanted++);
      }
    }
    return steps_;
  }

 private:
  void check(std::span<const int> prompt, int max_tokens) const {
    if (prompt.empty()) throw std::invalid_argument("the prompt is empty");
    if (prompt.size() >= static_cast<std::size_t>(context()))
      throw std::invalid_argument("the prompt has " + std::to_string(prompt.size()) + " tokens, the context " +
                                  std::to_string(context()) + ", one of them for the answer");
    if (max_tokens < 1) throw std::invalid_argument("max_tokens is " + std::to_string(max_tokens) + ", not 1 or more");
    for (const int token : prompt)
      if (token < 0 || token >= vocabulary())
        throw std::invalid_argument("token " + std::to_string(token) + " is outside the vocabulary of " +
                                    std::to_string(vocabulary()));
  }

  // Decoding slots first, so that a long prompt does not make them wait.
  void collect() {
    rows_.clear();
    int room = prefill_;
    for (const bool decoding : {true, false})
      for (std::size_t i = 0; i < slots_.size(); ++i) {
        const Slot& slot = slots_[i];
        if (!slot.waits() || (slot.computed + 1 == slot.tokens.size() && slot.computed > 0) != decoding) continue;
        std::size_t end = slot.tokens.size();
        if (!decoding) end = std::min(end, slot.computed + static_cast<std::size_t>(room));
        if (!decoding) room -= static_cast<int>(end - slot.computed);
        for (std::size_t p = slot.computed; p < end; ++p)
          rows_.push_back({slot.tokens[p], static_cast<int>(i), static_cast<int>(p), p + 1 == slot.tokens.size()});
      }
  }

  void answer(int index, Slot& slot, int wanted) {
    const std::uint64_t number = slot.tokens.size() - slot.prompt;
    const int token = slot.sampling.temperature == 0 ? model_->likeliest(wanted)
                                                     : sampler_.sample(model_->logits(wanted), slot.sampling, number);
    slot.tokens.push_back(token);
    const auto& ends = weights_->config().ends;
    slot.done = slot.tokens.size() >= slot.most || std::find(ends.begin(), ends.end(), token) != ends.end();
    steps_.push_back({index, token, slot.done});
  }

  std::shared_ptr<const Weights> weights_;
  std::unique_ptr<Model> model_;
  Limits limits_;
  int prefill_;
  std::vector<Slot> slots_;
  std::vector<Row> rows_;
  std::vector<Step> steps_;
  Sampler sampler_;
};

void check_options(const EngineOptions& options) {
  const auto positive = [](const char* name, int value) {
    if (value < 1) throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", not 1 or more");
  };
  positive("slots", options.slots);
  positive("context", options.context);
  positive("prefill", options.prefill);
}

constexpr std::string_view kRandom = "random:";

RandomOptions random_options(const std::string& source, const std::string& dtype) {
  const std::size_t colon = source.find(':', kRandom.size());
  RandomOptions random{source.substr(kRandom.size(), colon - kRandom.size())};
  random.dense = colon != std::string::npos;
  if (random.dense && source.substr(colon) != ":dense")
    throw std::invalid_argument(source + ": after the shape only :dense is known");
  if (dtype != "auto") random.dtype = dtype_named(dtype);
  return random;
}

}  // namespace

std::unique_ptr<Engine> make_engine(std::shared_ptr<const Weights> weights, const EngineOptions& options) {
  check_options(options);
  if (options.threads > 0) sparlow::embed::check(sparlow_set_threads(options.threads));
  const Limits limits{options.slots, std::min(options.context, weights->config().context),
                      options.prefill + options.slots};
  const bool cpu = options.device == "cpu";
  const sparlow_dtype stored = !cpu && weights->dtype() == SPARLOW_F32 ? SPARLOW_BF16 : weights->dtype();
  const sparlow_dtype dtype = options.dtype == "auto" ? stored : dtype_named(options.dtype);
  std::unique_ptr<Model> model =
      cpu ? make_cpu_model(*weights, dtype, limits) : make_cuda_model(*weights, dtype, limits, options.device);
  return std::make_unique<ScheduledEngine>(std::move(weights), std::move(model), limits, options.prefill);
}

std::unique_ptr<Engine> make_engine(const std::string& source, const EngineOptions& options) {
  const bool random = source.starts_with(kRandom);
  auto weights = random ? random_weights(random_options(source, options.dtype)) : open_folder(source);
  return make_engine(std::shared_ptr<const Weights>(std::move(weights)), options);
}

}  // namespace llama
