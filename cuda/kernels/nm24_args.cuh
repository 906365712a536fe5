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
  uint4* t_operand;  // [group of tokens][part][rank step][tile of 8 tokens][lane]: x vᵀ as a sum of two 16-bit numbers
  int d_out, d_in, tokens;
  int group_tiles;              // tiles of a group of tokens, the tokens of one block of the second kernel
  int column_blocks;
  int rank_steps;               // of one part
  int parts;
  int part_end[kMaxParts - 1];  // row blocks before the second, third, fourth part
  bool wide_x;                  // rows of x start at multiples of 16 bytes; else of 8

  __device__ __forceinline__ int part_of(int row_block) const {
    int part = 0;
    for (int i = 0; i < kMaxParts - 1; ++i) part += row_block >= part_end[i];
    return part;
  }
  // First unit of a group's t, for a step counted over all parts.
  __device__ __forceinline__ uint4* t_of(int group, int step) const {
    return t_operand + (static_cast<std::size_t>(group) * parts * rank_steps + step) * group_tiles * 32;
  }
};

// t is written by a kernel that may still run when its reader starts: no read-only loads.
__device__ __forceinline__ uint4 load_t(const uint4* p) { return __ldcg(p); }

constexpr int kXStride = kColumnBlock * 2 + 16;  // bytes of a row of x in shared memory: rows fall into other banks

// One warp starts to copy `rows` rows of 128 columns of x; columns past d_in become zero.
__device__ __forceinline__ void copy_x(unsigned char* shared, const ForwardArgs& a, int first_token, int rows,
                                       int column_block, int lane) {
  const auto* x = static_cast<const std::uint16_t*>(a.x) + static_cast<std::size_t>(first_token) * a.d_in;
  if (a.wide_x) {
    const int col = column_block * kColumnBlock + lane % 16 * 8, bytes = min(max(a.d_in - col, 0), 8) * 2;
    x += bytes ? col : 0;
    for (int row = lane / 16; row < rows; row += 2)
      copy_16(shared + row * kXStride + lane % 16 * 16, x + static_cast<std::size_t>(row) * a.d_in, bytes);
  } else {
    const int col = column_block * kColumnBlock + lane * 4, bytes = min(max(a.d_in - col, 0), 4) * 2;
    x += bytes ? col : 0;
    for (int row = 0; row < rows; ++row)
      copy_8(shared + row * kXStride + lane * 8, x + static_cast<std::size_t>(row) * a.d_in, bytes);
  }
}

// Address for load_matrices of 8 tokens. Rows that were not copied hold anything: their products are not stored.
__device__ __forceinline__ const unsigned char* x_address(const unsigned char* shared, int row, int lane) {
  return shared + row * kXStride + lane / 8 * 16;
}

}  // namespace sparlow::kernels
