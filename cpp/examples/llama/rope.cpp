#include "rope.hpp"

#include <cmath>
#include <cstddef>
#include <numbers>

namespace llama {
namespace {

// Radians per position of each pair.
std::vector<float> frequencies(const Config& config) {
  const Rope& rope = config.rope;
  std::vector<float> out;
  for (int i = 0; i < config.head_dim; i += 2) {
    const float plain =
        1.0f / std::pow(static_cast<float>(rope.theta), static_cast<float>(i) / static_cast<float>(config.head_dim));
    const float slow = plain / static_cast<float>(rope.factor);
    if (!rope.llama3) {
      out.push_back(slow);
      continue;
    }
    // Llama 3.1: wavelengths that the original context did not hold are stretched, a ramp leads there.
    const double turns = rope.original_context * plain / (2 * std::numbers::pi);
    const double smooth = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency);
    if (turns < rope.low_frequency) out.push_back(slow);
    else if (turns > rope.high_frequency) out.push_back(plain);
    else out.push_back(static_cast<float>((1 - smooth) * slow + smooth * plain));
  }
  return out;
}

void round_all(std::vector<float>& values, sparlow_dtype dtype) {
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<std::byte> stored(values.size() * sizeof(float));
  convert(values.data(), SPARLOW_F32, stored.data(), dtype, count);
  convert(stored.data(), dtype, values.data(), SPARLOW_F32, count);
}

}  // namespace

AngleTable angle_table(const Config& config, int positions, sparlow_dtype dtype) {
  const std::vector<float> speeds = frequencies(config);
  AngleTable out;
  for (int position = 0; position < positions; ++position)
    for (const float speed : speeds) {
      out.cosines.push_back(std::cos(static_cast<float>(position) * speed));
      out.sines.push_back(std::sin(static_cast<float>(position) * speed));
    }
  round_all(out.cosines, dtype);
  round_all(out.sines, dtype);
  return out;
}

}  // namespace llama
