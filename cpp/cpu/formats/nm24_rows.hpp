// Products of one row of a 2:4 matrix with several vectors, in f32, for the instruction set of this machine.
#pragma once

#include <cstdint>
#include <vector>

#include "sparlow/view.hpp"

namespace sparlow::cpu {

constexpr int kRowTokens = 4;  // vectors at a time

// sums[t] = values . x_t for t < tokens <= kRowTokens. values: `groups` pairs of `dtype`; meta: their nibbles (see
// format.hpp); x: vectors of 4 groups numbers, `stride` apart.
using Nm24Row = void(const void* values, const std::uint8_t* meta, Index groups, const float* x, Index stride,
                     int tokens, float* sums);

// All that run on this machine, the fastest first, and that one.
std::vector<Nm24Row*> nm24_rows(DType dtype);
Nm24Row* nm24_row(DType dtype);

// The same of a dense row of n numbers.
using DenseRow = void(const void* values, Index n, const float* x, Index stride, int tokens, float* sums);
DenseRow* dense_row(DType dtype);

// n numbers of `dtype` to f32 and back.
void widen(const void* from, DType dtype, Index n, float* to);
void narrow(const float* from, DType dtype, Index n, void* to);

}  // namespace sparlow::cpu
