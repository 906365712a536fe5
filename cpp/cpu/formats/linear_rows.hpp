// What computes rows of y = x (s + u v)ᵀ + bias. One table of functions per instruction set.
#pragma once

#include <cstdint>
#include <memory>

#include "sparlow/layer.hpp"

namespace sparlow::cpu {

// Tokens that are worked on together: their inputs stay in the second-level cache.
constexpr Index kTokenTile = 64;

// Inputs are copied to the workspace, as float or, where the processor multiplies pairs of bfloat16, as they are; rows
// are padded with zeros to a multiple of kPad elements.
constexpr Index kPad = 32;
inline Index padded(Index cols) { return (cols + kPad - 1) / kPad * kPad; }

struct RowJob {
  const void* values = nullptr;  // of s
  const std::uint8_t* meta = nullptr;
  const Index* starts = nullptr;  // bitmap: first value of every row, and the number of values at the end
  Index d_in = 0;
  const void* x = nullptr;  // [tokens, x_stride]
  Index x_stride = 0;
  const void *u = nullptr, *inner = nullptr;  // u [rows, rank]; inner [tokens, inner_stride] = x vᵀ, like x
  Index rank = 0, inner_stride = 0;
  Index inner_part = 0;  // elements from inner, or y when `like_x`, to what its rounding to 16 bits left over
  const void* bias = nullptr;
  void* y = nullptr;  // y[token * y_stride + row], in the layer's dtype, or as x when `like_x`
  Index y_stride = 0;
  bool like_x = false;
  Index tokens = 0;  // at most kTokenTile
};

using Rows = void(const RowJob& job, Index begin, Index end);

struct RowKernels {
  Rows* rows[3][3] = {};     // [DType][Format]
  bool bf16_inputs = false;  // inputs of bfloat16 layers stay bfloat16
  const char* name = nullptr;
};

// Null where the processor or the build lacks the instructions.
const RowKernels* avx512_rows();
const RowKernels* avx2_rows();
const RowKernels* portable_rows();
// The best of them; the environment variable SPARLOW_CPU (avx512, avx2, portable) asks for a lesser one.
const RowKernels& row_kernels();

std::unique_ptr<Layer> make_layer_with(const RowKernels& kernels, const LayerShape& shape, const LayerTensors& tensors,
                                       bool check = true);

}  // namespace sparlow::cpu
