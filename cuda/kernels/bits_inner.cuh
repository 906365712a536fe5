// From a block of masks, signs and values to operands of dense matrix instructions.
#pragma once

#include "bits_layout.hpp"
#include "nm24_inner.cuh"

namespace sparlow::kernels {

// A mask word and how many values of the block come before it.
struct alignas(8) MaskEntry {
  std::uint32_t mask, before;
};

// One warp turns the masks of a block into entries.
__device__ __forceinline__ void make_entries(MaskEntry* entries, const unsigned char* block, int lane) {
  const uint4 words = reinterpret_cast<const uint4*>(block)[lane];
  const unsigned a = __popc(words.x), b = a + __popc(words.y), c = b + __popc(words.z), all = c + __popc(words.w);
  unsigned sum = all;
#pragma unroll
  for (int i = 1; i < 32; i *= 2) {
    const unsigned below = __shfl_up_sync(~0u, sum, i);
    sum += lane >= i ? below : 0;
  }
  const unsigned start = sum - all;
  auto* to = reinterpret_cast<uint4*>(entries + 4 * lane);
  to[0] = make_uint4(words.x, start, words.y, start + a);
  to[1] = make_uint4(words.z, start + b, words.w, start + c);
  __syncwarp();
}

__device__ __forceinline__ std::uint32_t pair_of(std::uint32_t low, std::uint32_t high) {
  return __byte_perm(low, high, 0x5410);
}

// A lane's four elements of a chunk: two registers of an operand A.
__device__ __forceinline__ uint2 expand_chunk(const MaskEntry* entries, const std::uint16_t* values, int chunk,
                                              int lane) {
  const MaskEntry entry = entries[4 * chunk + lane / 8];
  const int shift = 4 * (lane % 8);
  const unsigned bits = entry.mask >> shift;
  const std::uint16_t* from = values + entry.before + __popc(entry.mask & ((1u << shift) - 1));
  const std::uint32_t a = bits & 1 ? from[0] : 0;
  from += bits & 1;
  const std::uint32_t b = bits & 2 ? from[0] : 0;
  from += bits >> 1 & 1;
  const std::uint32_t c = bits & 4 ? from[0] : 0;
  from += bits >> 2 & 1;
  const std::uint32_t d = bits & 8 ? from[0] : 0;
  return make_uint2(pair_of(a, b), pair_of(c, d));
}

// One block of s against 128 columns of x for 8 kTiles tokens.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_bitmap(float (&acc)[2][kTiles][4], const MaskEntry* entries,
                                                const std::uint16_t* values, const unsigned char* x_rows, int tokens,
                                                int lane) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    uint4 x[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) x[t] = load_x(x_rows, t, step, tokens, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // k16, then tile of rows
      const uint2 first = expand_chunk(entries, values, step * 8 + 2 * i, lane);
      const uint2 second = expand_chunk(entries, values, step * 8 + 2 * i + 1, lane);
      const uint4 a = make_uint4(first.x, first.y, second.x, second.y);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        mma_dense<T>(acc[i % 2][t], a, i < 2 ? x[t].x : x[t].z, i < 2 ? x[t].y : x[t].w);
    }
  }
}

// v: of one rank of the signed term and this block of columns, [quad lane][step] of pairs; its rows differ in sign.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_signs(float (&acc)[2][kTiles][4], const unsigned char* signs, const uint4* v,
                                               const unsigned char* x_rows, int tokens, int lane) {
  const uint4 words = reinterpret_cast<const uint4*>(signs)[lane];
  const std::uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint4 pairs = __ldg(v + lane % 4 * 4 + step);
    const std::uint32_t pair[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
    uint4 x[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) x[t] = load_x(x_rows, t, step, tokens, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // k16, then tile of rows
      std::uint32_t a[4];
#pragma unroll
      for (int r = 0; r < 4; ++r)
        a[r] = pair[i / 2 * 2 + r / 2] ^ ((word[step] << (15 - (4 * i + r))) & 0x80008000u);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        mma_dense<T>(acc[i % 2][t], make_uint4(a[0], a[1], a[2], a[3]), i < 2 ? x[t].x : x[t].z,
                     i < 2 ? x[t].y : x[t].w);
    }
  }
}

}  // namespace sparlow::kernels
