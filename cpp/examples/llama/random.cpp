// Weights of a real model's shape and random numbers, for timing without files.
#include <cmath>
#include <map>
#include <stdexcept>

#include "weights.hpp"

namespace llama {
namespace {

namespace embed = sparlow::embed;

std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// A start of its own for every tensor.
std::uint64_t seed_of(const std::string& key) {
  std::uint64_t seed = 0;
  for (const char c : key) seed = mixed(seed + static_cast<unsigned char>(c));
  return seed;
}

Config shape_named(const std::string& name) {
  Config config;
  config.epsilon = 1e-5f;
  if (name == "8b") {
    config.vocabulary = 128256, config.width = 4096, config.inner = 14336, config.layers = 32;
    config.heads = 32, config.kv_heads = 8, config.head_dim = 128, config.context = 8192;
    config.rope.theta = 500000;
  } else if (name == "135m") {
    config.vocabulary = 49152, config.width = 576, config.inner = 1536, config.layers = 30;
    config.heads = 9, config.kv_heads = 3, config.head_dim = 64, config.context = 8192;
    config.rope.theta = 100000;
  } else if (name == "tiny") {
    config.vocabulary = 256, config.width = 256, config.inner = 512, config.layers = 2;
    config.heads = 4, config.kv_heads = 2, config.head_dim = 64, config.context = 1024;
  } else {
    throw std::runtime_error("unknown shape '" + name + "'; 8b, 135m and tiny are known");
  }
  return config;
}

class Random final : public Weights {
 public:
  explicit Random(const RandomOptions& options) : options_(options), config_(shape_named(options.shape)) {
    if (options.layers > 0) config_.layers = options.layers;
  }

  const Config& config() const override { return config_; }
  sparlow_dtype dtype() const override { return options_.dtype; }

  // Ones for the norms, so that activations keep their size.
  Tensor tensor(const std::string&, const std::vector<std::int64_t>& shape) const override {
    std::int64_t count = 1;
    for (const std::int64_t extent : shape) count *= extent;
    return {shape.size() == 1 ? filled("ones", count, 1, 0) : filled("table", count, 0, 1), options_.dtype, count};
  }

  LinearWeights linear(const std::string& name, std::int64_t d_out, std::int64_t d_in) const override {
    const bool compressed = !options_.dense && name.rfind("model.layers.", 0) == 0;
    LinearWeights out{name, embed::make<sparlow_layer_info>(), embed::make<sparlow_layer_tensors>(), compressed};
    sparlow_layer_info& info = out.info;
    info.format = compressed ? SPARLOW_NM24 : SPARLOW_DENSE;
    info.dtype = options_.dtype;
    info.d_out = d_out, info.d_in = d_in;
    info.rank = compressed ? options_.rank : 0;
    info.stored = compressed ? d_out * (d_in / 2) : d_out * d_in;
    const float spread = std::sqrt((compressed ? 2.0f : 1.0f) / static_cast<float>(d_in));
    const std::string key = std::to_string(d_out) + "x" + std::to_string(d_in);
    out.tensors.values = filled("s" + key, info.stored, 0, spread);
    if (!compressed) return out;
    out.tensors.meta = positions(key, d_out * ((d_in + 7) / 8));
    out.tensors.u = filled("u" + key, d_out * info.rank, 0, 0.01f);
    out.tensors.v = filled("v" + key, info.rank * d_in, 0, 0.01f);
    return out;
  }

 private:
  // Evenly distributed around `mean` with that standard deviation.
  const void* filled(const std::string& key, std::int64_t count, float mean, float deviation) const {
    auto& block = blocks_[key + "/" + std::to_string(count)];
    if (block != nullptr) return block.get();
    const std::int64_t size = size_of(options_.dtype);
    const std::uint64_t seed = seed_of(key);
    block = std::make_unique_for_overwrite<std::byte[]>(count * size);
    constexpr std::int64_t kBatch = 4096;
    embed::parallel_for((count + kBatch - 1) / kBatch, 16, [&](std::int64_t begin, std::int64_t end) {
      float values[kBatch];
      for (std::int64_t b = begin; b < end; ++b) {
        const std::int64_t first = b * kBatch, here = std::min(kBatch, count - first);
        for (std::int64_t i = 0; i < here; ++i) {
          const auto bits = static_cast<std::int32_t>(mixed(seed + static_cast<std::uint64_t>(first + i)) >> 40);
          values[i] = mean + deviation * 1.7320508f * (static_cast<float>(bits) * 0x1p-23f - 1.0f);
        }
        convert(values, SPARLOW_F32, block.get() + first * size, options_.dtype, here);
      }
    });
    return block.get();
  }

  // A legal pair of ascending positions for every group of four.
  const std::uint8_t* positions(const std::string& key, std::int64_t bytes) const {
    constexpr std::uint8_t kPairs[6] = {4, 8, 12, 9, 13, 14};  // first + 4 second
    auto& block = blocks_["meta" + key];
    if (block == nullptr) {
      block = std::make_unique_for_overwrite<std::byte[]>(bytes);
      const std::uint64_t seed = seed_of("meta" + key);
      for (std::int64_t i = 0; i < bytes; ++i) {
        const std::uint64_t bits = mixed(seed + static_cast<std::uint64_t>(i));
        block[i] = std::byte(kPairs[bits % 6] | kPairs[bits / 6 % 6] << 4);
      }
    }
    return reinterpret_cast<const std::uint8_t*>(block.get());
  }

  RandomOptions options_;
  Config config_;
  mutable std::map<std::string, std::unique_ptr<std::byte[]>> blocks_;
};

}  // namespace

std::unique_ptr<Weights> random_weights(const RandomOptions& options) { return std::make_unique<Random>(options); }

}  // namespace llama
