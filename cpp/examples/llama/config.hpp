// What config.json says of a model of the Llama family.
#pragma once

#include <string>
#include <vector>

#include "sparlow/embed.hpp"

namespace llama {

struct Rope {
  double theta = 10000;
  double factor = 1;  // positions are divided by it: all of them (linear), or those of slow frequencies (llama3)
  bool llama3 = false;
  double low_frequency = 1, high_frequency = 4, original_context = 8192;  // llama3
};

struct Config {
  int vocabulary = 0, width = 0, inner = 0, layers = 0;
  int heads = 0, kv_heads = 0, head_dim = 0;
  int context = 0;  // positions the model was trained for
  float epsilon = 0;
  bool tied = false;  // the output head is the embedding
  Rope rope;
  std::vector<int> ends;  // tokens that end a sequence; those of generation_config.json go before config.json's

  int q_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
};

// Throws std::runtime_error naming the key that is missing, impossible or not supported.
Config read_config(const sparlow::embed::Checkpoint& checkpoint);

}  // namespace llama
