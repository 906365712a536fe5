#include "sampler.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace llama {
namespace {

// Evenly distributed in [0, 1): splitmix64 of seed and index.
double draw(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t x = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return static_cast<double>((x ^ x >> 31) >> 11) * 0x1p-53;
}

}  // namespace

void check_sampling(const Sampling& sampling) {
  if (!(sampling.temperature >= 0) || !std::isfinite(sampling.temperature))
    throw std::invalid_argument("temperature is " + std::to_string(sampling.temperature) + "; it must be 0 or more");
  if (!(sampling.top_p > 0 && sampling.top_p <= 1))
    throw std::invalid_argument("top_p is " + std::to_string(sampling.top_p) + "; it must be above 0 and at most 1");
}

int likeliest(std::span<const float> logits) {
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) throw std::runtime_error("the model's logits are not numbers");
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<int>(best);
}

// Leaves the fewest candidates that have top_p of the total.
void Sampler::nucleus(float top_p, double total) {
  // What is less likely than an even share of the rest cannot be among them; there are few others to sort.
  const double least = (1 - static_cast<double>(top_p)) * total / static_cast<double>(candidates_.size());
  const auto likely = [&](const Candidate& c) { return c.probability >= least; };
  candidates_.erase(std::partition(candidates_.begin(), candidates_.end(), likely), candidates_.end());
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
  });
  double sum = 0;
  std::size_t kept = 0;
  while (kept < candidates_.size() && sum < top_p * total) sum += candidates_[kept++].probability;
  candidates_.resize(kept);
}

int Sampler::sample(std::span<const float> logits, const Sampling& sampling, std::uint64_t index) {
  const int best = likeliest(logits);
  if (sampling.temperature == 0) return best;
  candidates_.clear();
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float probability = std::exp((logits[i] - logits[static_cast<std::size_t>(best)]) / sampling.temperature);
    candidates_.push_back({probability, static_cast<int>(i)});
    total += probability;
  }
  if (sampling.top_p < 1) {
    nucleus(sampling.top_p, total);
    total = 0;
    for (const Candidate& candidate : candidates_) total += candidate.probability;
  }
  double left = draw(sampling.seed, index) * total;
  for (const Candidate& candidate : candidates_)
    if ((left -= candidate.probability) < 0) return candidate.token;
  return best;
}

}  // namespace llama
