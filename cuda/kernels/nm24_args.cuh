// What the kernels of one forward pass share.
#pragma once

#include <cstdint>

#include "nm24_device.cuh"
#include "nm24_layout.hpp"

namespace sparlow::kernels {

constexpr int kMaxParts = 4;

struct ForwardArgs {
  const uint4* weights;
  const uint4* u;
  const uint4* v;
  const void* bias;  // may be null
  const void* x;     // [tokens, d_in]
  void* y;           // [tokens, d_out]
  uint4* x_operand;  // [columns / 32][tile of 8 tokens][lane], written by prepare
  uint4* t_operand;  // [part][rank step][tile of 8 tokens][lane]: x vᵀ as a sum of two 16-bit numbers
  int d_out, d_in, tokens;
  int column_blocks;
  int rank_steps;                // of one part
  int parts;
  int part_end[kMaxParts - 1];  // row blocks before the second, third, fourth part

  __device__ __forceinline__ int first_rank_step(int row_block) const {
    int part = 0;
    for (int i = 0; i < kMaxParts - 1; ++i) part += row_block >= part_end[i];
    return part * rank_steps;
  }
};

// These two buffers are written by a kernel that may still run when their reader starts: no read-only loads.
__device__ __forceinline__ uint4 load_operand(const uint4* p) { return __ldcg(p); }

}  // namespace sparlow::kernels
