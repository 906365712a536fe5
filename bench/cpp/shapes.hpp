// Shapes of linear layers: of models by name, or written as d_out x d_in.
#pragma once

#include <string>
#include <vector>

#include "sparlow/view.hpp"

namespace sparlow::bench {

struct LayerSize {
  std::string name;  // "q_proj", or the shape itself
  Index d_out = 0, d_in = 0;
  Index count = 1;  // of such layers in the whole model
};

// Every linear layer inside the blocks of a model, as Hugging Face names them. Throws Error(invalid_argument) that
// suggests the nearest name.
std::vector<LayerSize> model_layers(const std::string& model);
std::vector<std::string> model_names();

// "4096x14336" is d_out 4096, d_in 14336. Throws Error(invalid_argument).
LayerSize parse_shape(const std::string& text);

// Layers of the same shape together, in the order of their first; names are joined by '+'.
std::vector<LayerSize> distinct(const std::vector<LayerSize>& layers);

}  // namespace sparlow::bench
