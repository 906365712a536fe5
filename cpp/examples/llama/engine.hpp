// A Llama-family model that answers several prompts at once. What a server needs to know of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace llama {

struct Sampling {
  float temperature = 0;  // 0: always the likeliest token
  float top_p = 1;        // sample among the fewest tokens that have this much probability together
  std::uint64_t seed = 0;
};

struct Step {
  int slot;
  int token;
  bool last;  // an end-of-sequence token, the context is full or max_tokens are there; the slot still wants remove()
};

// No slot is free; try again after a remove().
struct Full : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Not for several threads at once: one thread owns an engine.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual int vocabulary() const = 0;
  virtual int context() const = 0;  // most tokens of prompt and answer together
  virtual int slots() const = 0;
  // Takes a prompt of token ids and says which slot answers. Throws std::invalid_argument for an empty or too long
  // prompt, a token outside the vocabulary, max_tokens below 1, a temperature below 0 or a top_p outside (0, 1], and
  // Full. Computes nothing yet. Fewer tokens than max_tokens come when the context is full.
  virtual int add(std::span<const int> prompt, const Sampling& sampling, int max_tokens) = 0;
  // Frees a slot at any time, also before its answer is complete. Throws std::invalid_argument for a free slot.
  virtual void remove(int slot) = 0;
  // One token for every slot that waits for one, new slots' prompts included; empty when none does. A prompt longer
  // than EngineOptions::prefill may answer some calls later. The result lives until the next call. What other slots
  // hold changes a slot's logits by rounding at most.
  virtual std::span<const Step> step() = 0;
};

struct EngineOptions {
  std::string device = "cpu";  // "cpu", "cuda" or "cuda:N"
  std::string dtype = "auto";  // float32 (CPU only), bfloat16, float16; auto: the checkpoint's, a GPU's without float32
  int slots = 1;
  int context = 2048;  // most tokens per slot; cut to what the model was trained for
  int prefill = 256;   // most prompt tokens that are computed together
  int threads = 0;     // of the CPU; 0: as many as sparlow takes by itself
};

// source: a folder with config.json and safetensors, a sparlow checkpoint or a dense one; or, for timing without files,
// "random:SHAPE" (2:4 + rank 64; the shapes: 8b, 135m, tiny) or "random:SHAPE:dense". Throws std::runtime_error with
// the file and the name of what is wrong, std::invalid_argument for other words after a shape.
std::unique_ptr<Engine> make_engine(const std::string& source, const EngineOptions& options);

}  // namespace llama
