#pragma once

#include <vector>

#include "sparlow/layer.hpp"

namespace sparlow::cpu {

// `positions`: those of nm24 are looked at. Throws Error(invalid_argument) for impossible shapes, missing or misaligned
// memory, and stored positions that are not legal. Returns the first stored value of every row of a bitmap and their
// number; nothing for other formats.
std::vector<Index> check_layer(const LayerShape& shape, const LayerTensors& tensors, bool positions = true);

}  // namespace sparlow::cpu
