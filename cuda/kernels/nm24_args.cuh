// What the kernels of one forward pass share.
//
// A forward pass is one launch. Its first blocks compute t = x vᵀ for everybody; the others read s and need t only at
// their end. They poll for it in global memory, which cannot hang: blocks start in the order of their index, and a
// block that computes t waits at most for blocks before it.
#pragma once

#include <cstdint>

#include "nm24_layout.hpp"
#include "nm24_mailbox.cuh"
#include "nm24_plan.hpp"

namespace sparlow::kernels {

constexpr int kMaxParts = Nm24Shape::kMaxParts;

// At the start of the workspace, which is all zero before its first use.
struct Progress {
  unsigned launches;  // done so far
  unsigned t_used;    // warps of this launch that will not look at t again
};

struct ForwardArgs {
  const uint4* weights;
  const uint4* u;
  const uint4* v;
  const void* bias;  // may be null
  const void* x;     // [tokens, d_in]
  void* y;           // [tokens, d_out]
  Progress* progress;
  Mailbox* t_shares;  // [unit: group of tokens, part, rank step][share][tile of 8 tokens][half][lane]
  Mailbox* t_sums;    // [group of tokens][part][rank step][tile of 8 tokens][half][lane], for the wide kernel
  int d_out, d_in, tokens;
  int group_tiles;  // tiles of a group of tokens, the tokens of one block
  int column_blocks;
  int rank_steps;  // of one part
  int parts;
  int part_end[kMaxParts - 1];  // row blocks before the second, third, fourth part
  int first_block;              // that has rows of y; those before it compute t
  unsigned t_users;             // warps that will call finish_with_t
  int splits;                   // blocks of a cluster, which share rows of y
  int x_rows;                   // tokens that the wide kernel copies: no more than there are
  bool wide_x;                  // rows of x start at multiples of 16 bytes; else of 8

  __device__ __forceinline__ int part_of(int row_block) const {
    int part = 0;
    for (int i = 0; i < kMaxParts - 1; ++i) part += row_block >= part_end[i];
    return part;
  }
  // Of a group of tokens, for a step counted over all parts.
  __device__ __forceinline__ Mailbox* sums_of(int group, int step) const {
    return t_sums + (static_cast<std::size_t>(group) * parts * rank_steps + step) * group_tiles * 64;
  }
};

// Stamp of this launch, on everything it puts into a mailbox. After wait_for_previous_kernel.
__device__ __forceinline__ unsigned stamp_of(const ForwardArgs& a) {
  unsigned launches;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(launches) : "l"(&a.progress->launches) : "memory");
  return launches + 1;
}
// One thread, when its warp will not look at t again. What it returns goes to end_launch, at leisure.
__device__ __forceinline__ unsigned finish_with_t(const ForwardArgs& a) {
  return atomicInc(&a.progress->t_used, a.t_users - 1);
}
__device__ __forceinline__ void end_launch(const ForwardArgs& a, unsigned finished, unsigned stamp) {
  if (finished + 1 == a.t_users) a.progress->launches = stamp;
}

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

// Operand of 32 columns and 8 tokens. Only `rows` rows have memory; the products of others are not stored.
__device__ __forceinline__ uint4 load_x(const unsigned char* shared, int tile, int step, int rows, int lane) {
  return load_matrices(shared + min(8 * tile + lane % 8, rows - 1) * kXStride + lane / 8 * 16 + step * 64);
}

}  // namespace sparlow::kernels
