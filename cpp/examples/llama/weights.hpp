// Where a model's tensors come from: a folder, or random numbers of some model's shape.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config.hpp"
#include "dtype.hpp"
#include "sparlow/embed.hpp"

namespace llama {

// Host memory that lives as long as its source.
struct Tensor {
  const void* data = nullptr;
  sparlow_dtype dtype = SPARLOW_BF16;
  std::int64_t count = 0;
};

// A linear layer as it is stored: compressed, or dense (then tensors.values is w [d_out, d_in]).
struct LinearWeights {
  std::string name;
  sparlow_layer_info info;
  sparlow_layer_tensors tensors;
  bool compressed = false;
};

class Weights {
 public:
  virtual ~Weights() = default;
  virtual const Config& config() const = 0;
  virtual sparlow_dtype dtype() const = 0;  // of the embedding
  // Throw std::runtime_error naming a tensor that is missing or has another shape or type.
  virtual Tensor tensor(const std::string& name, const std::vector<std::int64_t>& shape) const = 0;
  virtual LinearWeights linear(const std::string& name, std::int64_t d_out, std::int64_t d_in) const = 0;

  LinearWeights head() const;  // lm_head, or the embedding of a tied model
  Tensor embedding() const;
};

std::unique_ptr<Weights> open_folder(const std::string& folder);

struct RandomOptions {
  std::string shape;  // "8b": Llama-3-8B's; "135m": SmolLM2-135M's; "tiny"
  bool dense = false;
  int rank = 64;
  sparlow_dtype dtype = SPARLOW_BF16;
  int layers = 0;  // 0: the shape's
};

// 2:4 + low rank, or dense; layers of one shape share their numbers (each has a copy of its own on a GPU).
std::unique_ptr<Weights> random_weights(const RandomOptions& options);

// Host memory for tensors in another type than they are stored in, kept as long as the layers that read them.
class Arena {
 public:
  // The tensor itself where it has the type already.
  const void* as(const void* data, sparlow_dtype from, sparlow_dtype to, std::int64_t count);
  // All tensors of a layer.
  void as(LinearWeights& linear, sparlow_dtype to);

 private:
  std::map<std::pair<const void*, sparlow_dtype>, std::unique_ptr<std::byte[]>> blocks_;
};

}  // namespace llama
