// What lies between the linear layers, on the CPU. Numbers are rounded to the model's type where transformers rounds
// them, so that both decide alike.
#pragma once

#include <cstdint>

#include "dtype.hpp"

namespace llama::cpu {

constexpr int kMostDim = 256;  // of a head

// hidden += y, if there is one; out = hidden / sqrt(mean square + epsilon) * weight. One row of `width`.
void add_norm(sparlow_dtype dtype, void* hidden, const void* y, const void* weight, float epsilon, void* out,
              std::int64_t width);
// Turns the pairs (i, i + dim / 2) of each head in place. cosines, sines: [dim / 2], already rounded.
void rotate(sparlow_dtype dtype, void* x, const float* cosines, const float* sines, int heads, int dim);
// gate = silu(gate) * up
void silu_multiply(sparlow_dtype dtype, void* gate, const void* up, std::int64_t count);
// One head of one query over `count` keys and values [count, dim]; out = softmax(q k / sqrt(dim)) v.
void attend(sparlow_dtype dtype, const void* q, const void* k, const void* v, int count, int dim, void* out);

}  // namespace llama::cpu
