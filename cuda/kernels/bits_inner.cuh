// From a block of masks, signs and values to operands of dense matrix instructions.
#pragma once

#include "bits_layout.hpp"
#include "nm24_inner.cuh"

namespace sparlow::kernels {

// A mask word and where the values of its first set bit are.
struct alignas(8) MaskEntry {
  std::uint32_t mask, values;
};

// One warp turns the masks of a block into entries; of one that is not there into empty ones. values: the address of
// the block's, in any unit of bytes.
__device__ __forceinline__ void make_entries(MaskEntry* entries, const unsigned char* masks, std::uint32_t values,
                                             bool there, int lane) {
  const uint2 words = there ? reinterpret_cast<const uint2*>(masks)[lane] : make_uint2(0, 0);
  const unsigned first = __popc(words.x), both = first + __popc(words.y);
  unsigned sum = both;
#pragma unroll
  for (int i = 1; i < 32; i *= 2) {
    const unsigned below = __shfl_up_sync(~0u, sum, i);
    sum += lane >= i ? below : 0;
  }
  const unsigned start = values + 2 * (sum - both);
  reinterpret_cast<uint4*>(entries)[lane] = make_uint4(words.x, start, words.y, start + 2 * first);
}

// A lane's four elements of a chunk.
struct Nibble {
  std::uint32_t values;  // address of the first
  unsigned bits;         // which there are; higher bits belong to other lanes
};
__device__ __forceinline__ Nibble nibble_of(const MaskEntry* entries, int chunk, int lane) {
  const MaskEntry entry = entries[4 * chunk + lane / 8];
  const int shift = 4 * (lane % 8);
  return {entry.values + 2 * __popc(entry.mask & ((1u << shift) - 1)), entry.mask >> shift};
}

// As two registers of an operand A, from shared memory. Written so that a value costs a load and an addition.
__device__ __forceinline__ uint2 expand_chunk(const MaskEntry* entries, int chunk, int lane) {
  const Nibble n = nibble_of(entries, chunk, lane);
  uint2 pairs;
  asm("{\n"
      ".reg .pred p<4>;\n"
      ".reg .b32 at, bit<4>, v<4>;\n"
      "and.b32 bit0, %3, 1;\n"
      "and.b32 bit1, %3, 2;\n"
      "and.b32 bit2, %3, 4;\n"
      "and.b32 bit3, %3, 8;\n"
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
      : "r"(n.values), "r"(n.bits)
      : "memory");
  return pairs;
}

// 32 columns of 16 rows of a bitmap against 8 kTiles tokens.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_bitmap(float (&acc)[kTiles][4], const MaskEntry* entries, int step,
                                                const uint4 (&x)[kTiles], int lane) {
#pragma unroll
  for (int k16 = 0; k16 < 2; ++k16) {
    const uint2 first = expand_chunk(entries, step * 4 + 2 * k16, lane);
    const uint2 second = expand_chunk(entries, step * 4 + 2 * k16 + 1, lane);
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
