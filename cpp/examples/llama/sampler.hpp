// The next token from a row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine.hpp"

namespace llama {

// Throws std::invalid_argument for a temperature below 0, a top_p outside (0, 1], or what is no number.
void check_sampling(const Sampling& sampling);

// The first of the largest. Throws std::runtime_error when a logit is NaN.
int likeliest(std::span<const float> logits);

// The draw depends on the seed and `index`, the number of the token in its answer, alone.
class Sampler {
 public:
  int sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t index);

 private:
  struct Candidate {
    float probability;
    int token;
  };
  void nucleus(float top_p, double total);

  std::vector<Candidate> candidates_;
};

}  // namespace llama
