// From a block of masks, signs and values to operands of dense matrix instructions.
#pragma once

#include "bits_layout.hpp"
#include "nm24_inner.cuh"

namespace sparlow::kernels {

// A mask word and where the values of its first set bit are.
struct alignas(8) MaskEntry {
  std::uint32_t mask, values;
};
// Entries of a warp in the order of reading: for two chunks at a time those of eight lanes side by side.
SPARLOW_HD int entry_of(int word) { return word / 8 * 8 + word % 4 * 2 + word / 4 % 2; }

// sum += that of the lane `distance` below, if there is one.
__device__ __forceinline__ void add_from_below(unsigned& sum, int distance) {
  asm volatile(
      "{\n"
      ".reg .pred inside;\n"
      ".reg .b32 below;\n"
      "shfl.sync.up.b32 below|inside, %0, %1, 0, -1;\n"
      "@inside add.u32 %0, %0, below;\n"
      "}\n"
      : "+r"(sum)
      : "r"(distance));
}

// One warp turns the masks of a block into entries. values: where the block's are, in bytes from anywhere.
__device__ __forceinline__ void make_entries(MaskEntry* entries, const unsigned char* masks, std::uint32_t values,
                                             int lane) {
  const uint2 words = reinterpret_cast<const uint2*>(masks)[lane];
  const unsigned first = __popc(words.x), both = first + __popc(words.y);
  unsigned sum = both;
#pragma unroll
  for (int i = 1; i < 32; i *= 2) add_from_below(sum, i);
  const unsigned start = values + 2 * (sum - both);
  MaskEntry* to = entries + entry_of(2 * lane);
  to[0] = {words.x, start};
  to[2] = {words.y, start + 2 * first};
}

// How a lane finds its nibble of a mask word.
struct NibbleOf {
  unsigned below;  // bits of the lanes before
  int turn;        // to bits 3..6, from where one instruction moves them to predicates

  __device__ __forceinline__ explicit NibbleOf(int lane)
      : below((1u << 4 * (lane % 8)) - 1), turn(4 * (lane % 8) - 3) {}
};

// Two registers of an operand A from shared memory. Written so that a value costs a load and an addition.
__device__ __forceinline__ uint2 expand_chunk(std::uint32_t mask, std::uint32_t values, const NibbleOf& nibble) {
  const std::uint32_t first = values + 2 * __popc(mask & nibble.below);
  const std::uint32_t bits = __funnelshift_r(mask, mask, nibble.turn);
  uint2 pairs;
  asm volatile(
      "{\n"
      ".reg .pred p<4>;\n"
      ".reg .b32 at, bit<4>, v<4>;\n"
      "and.b32 bit0, %3, 8;\n"
      "and.b32 bit1, %3, 16;\n"
      "and.b32 bit2, %3, 32;\n"
      "and.b32 bit3, %3, 64;\n"
      "setp.ne.u32 p0, bit0, 0;\n"
      "setp.ne.u32 p1, bit1, 0;\n"
      "setp.ne.u32 p2, bit2, 0;\n"
      "setp.ne.u32 p3, bit3, 0;\n"
      "mov.b32 at, %2;\n"
      "mov.b32 v0, 0;\n"
      "mov.b32 v1, 0;\n"
      "mov.b32 v2, 0;\n"
      "mov.b32 v3, 0;\n"
      "@p0 ld.shared.u16 v0, [at];\n"
      "@p0 add.u32 at, at, 2;\n"
      "@p1 ld.shared.u16 v1, [at];\n"
      "@p1 add.u32 at, at, 2;\n"
      "@p2 ld.shared.u16 v2, [at];\n"
      "@p2 add.u32 at, at, 2;\n"
      "@p3 ld.shared.u16 v3, [at];\n"
      "prmt.b32 %0, v0, v1, 0x5410;\n"
      "prmt.b32 %1, v2, v3, 0x5410;\n"
      "}\n"
      : "=r"(pairs.x), "=r"(pairs.y)
      : "r"(first), "r"(bits)
      : "memory");
  return pairs;
}

// 32 columns of 16 rows of a bitmap against 8 kTiles tokens.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_bitmap(float (&acc)[kTiles][4], const MaskEntry* entries, int step,
                                                const uint4 (&x)[kTiles], const NibbleOf& nibble, int lane) {
#pragma unroll
  for (int k16 = 0; k16 < 2; ++k16) {
    const uint4 two = *reinterpret_cast<const uint4*>(entries + (step * 2 + k16) * 8 + lane / 8 * 2);
    const uint2 first = expand_chunk(two.x, two.y, nibble), second = expand_chunk(two.z, two.w, nibble);
    const uint4 a = make_uint4(first.x, first.y, second.x, second.y);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) mma_dense<T>(acc[t], a, k16 ? x[t].z : x[t].x, k16 ? x[t].w : x[t].y);
  }
}

// The same with rows that are v of one rank of the signed term but for their signs. words: a lane's signs of 16 rows;
// pairs: what it has of v in these columns.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_signs(float (&acc)[kTiles][4], const uint2& words, const uint4& pairs,
                                               int step, const uint4 (&x)[kTiles]) {
  const std::uint32_t pair[4] = {pairs.x, pairs.y, pairs.z, pairs.w}, word = step < 2 ? words.x : words.y;
#pragma unroll
  for (int k16 = 0; k16 < 2; ++k16) {
    std::uint32_t a[4];
#pragma unroll
    for (int r = 0; r < 4; ++r)
      a[r] = pair[2 * k16 + r / 2] ^ ((word << (15 - (step % 2 * 8 + 4 * k16 + r))) & 0x80008000u);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      mma_dense<T>(acc[t], make_uint4(a[0], a[1], a[2], a[3]), k16 ? x[t].z : x[t].x, k16 ? x[t].w : x[t].y);
  }
}

}  // namespace sparlow::kernels
