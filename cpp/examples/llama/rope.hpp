// Rotary position embedding: the angles of the pairs of a head.
#pragma once

#include <vector>

#include "config.hpp"
#include "dtype.hpp"

namespace llama {

// Cosines and sines, [positions][head_dim / 2], as `dtype` holds them.
struct AngleTable {
  std::vector<float> cosines, sines;
};

AngleTable angle_table(const Config& config, int positions, sparlow_dtype dtype);

}  // namespace llama
