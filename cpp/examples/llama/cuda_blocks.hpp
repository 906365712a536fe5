// The weights of a model on a GPU.
#pragma once

#include "cuda_linears.hpp"

namespace llama::cuda {

struct Block {
  Linears qkv, o, gate_up, down;
  DeviceMemory input_norm, post_norm;
};

struct ModelWeights {
  DeviceMemory embedding, cosines, sines, final_norm;
  std::vector<Block> blocks;
  Linears head;
};

// Angles for so many positions.
ModelWeights load_weights(const sparlow::embed::Context& context, const Weights& weights, sparlow_dtype dtype,
                          int positions);

}  // namespace llama::cuda
