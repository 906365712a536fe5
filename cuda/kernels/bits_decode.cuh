// y = x sᵀ + ((us vs) ∘ signs) applied to x + t uᵀ + bias for a few tokens, bound by reading s and the signs.
//
// Built like nm24_decode.cuh: a block has 32 rows, its warps take turns in blocks of 128 columns and add up at the end.
#pragma once

#include "bits_inner.cuh"
#include "nm24_decode.cuh"

namespace sparlow::kernels {

struct BitsArgs {
  ForwardArgs common;             // weights: the blocks one after the other
  const std::uint32_t* offsets;   // of blocks in units of 16 bytes; one more at the end
  const uint4* sign_v;            // [column block][rank of the signed term][quad lane][step]
  const void* sign_u;             // [d_out][rank of the signed term]
  int block_capacity;             // bytes of the largest block, and of each stage
};

// Blocks of one warp, with the x that goes with them; their sizes differ.
struct BitsRing {
  const BitsArgs& a;
  int row_block, first, stride, count;  // column blocks
  int first_token, tokens;
  unsigned char* memory;
  int stages;
  Barrier* full;
  int lane;
  int slot = 0;
  unsigned parity = 0;
  uint2 next{};  // where the next block to be read begins and ends
#if SPARLOW_SM90
  std::uint64_t policy = evict_first();
#endif

  static SPARLOW_HD int stage_bytes(int capacity, int tokens) { return capacity + tokens * kXStride; }

  __device__ __forceinline__ unsigned char* stage(int i) { return memory + i * stage_bytes(a.block_capacity, tokens); }
  __device__ __forceinline__ void find(int i) {
    if (i >= count) return;
    const std::uint32_t* at = a.offsets + static_cast<std::size_t>(row_block) * a.common.column_blocks + first + i * stride;
    next = make_uint2(__ldg(at), __ldg(at + 1));
  }
  __device__ __forceinline__ void fill_block(int to, int i) {
    const uint4* from = a.common.weights + next.x;
    const int units = static_cast<int>(next.y - next.x);
    find(i + 1);
#if SPARLOW_SM90
    if (lane == 0) {
      barrier_expect(&full[to], units * 16);
      bulk_copy(stage(to), from, units * 16, &full[to], policy);
    }
#else
    for (int unit = lane; unit < units; unit += 32) copy_16(stage(to) + unit * 16, from + unit, 16);
#endif
  }
  __device__ __forceinline__ void fill_x(int to, int i) {
    copy_x(stage(to) + a.block_capacity, a.common, first_token, tokens, first + i * stride, lane);
    barrier_arrive_after_copies(&full[to]);
  }
  __device__ __forceinline__ void start() {
    find(0);
    if (lane == 0) {
      for (int s = 0; s < stages; ++s) barrier_init(&full[s], 32 + SPARLOW_SM90);
#if SPARLOW_SM90
      barrier_init_done();
#endif
    }
    __syncwarp();
    const int early = min(stages, count);
    for (int i = 0; i < early; ++i) fill_block(i, i);
    wait_for_previous_kernel();
    for (int i = 0; i < early; ++i) fill_x(i, i);
  }
  __device__ __forceinline__ const unsigned char* acquire() {
    barrier_wait(&full[slot], parity);
    return stage(slot);
  }
  __device__ __forceinline__ void release(int i) {
    __syncwarp();
    if (i + stages < count) fill_block(slot, i + stages), fill_x(slot, i + stages);
    if (++slot == stages) slot = 0, parity ^= 1;
  }
};

// Shared memory of a warp: its ring, which its sums replace at the end, and the entries of the block it works on.
template <int kTiles, int kStages>
SPARLOW_HD int bits_warp_bytes(int capacity, int tokens) {
  const int ring = kStages * BitsRing::stage_bytes(capacity, tokens < 8 * kTiles ? tokens : 8 * kTiles);
  constexpr int sums = 8 * kTiles * kSumStride * 4;
  return (ring > sums ? ring : sums) + kMaskWords * static_cast<int>(sizeof(MaskEntry));
}

// sums[rank of the signed term] of this warp, times us, added to acc.
template <typename T, int kTiles, int kSigns>
__device__ __forceinline__ void add_signed(float (&acc)[2][kTiles][4], const float (&sums)[kSigns][2][kTiles][4],
                                           const BitsArgs& a, int row_block, int lane) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(row_block * kRowBlock + m * 16 + lane / 4 + 8 * half, a.common.d_out - 1);
#pragma unroll
      for (int k = 0; k < kSigns; ++k) {
        const float u = to_float(static_cast<const T*>(a.sign_u)[static_cast<std::size_t>(row) * kSigns + k]);
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
          for (int i = 0; i < 2; ++i) acc[m][t][2 * half + i] += u * sums[k][m][t][2 * half + i];
      }
    }
}

template <typename T, int kTiles, int kWarps, int kStages, int kSigns>
__device__ __forceinline__ void bits_block(const BitsArgs& b, int row_block, int group, unsigned char* shared,
                                           int warp_bytes, Barrier* full) {
  const ForwardArgs& a = b.common;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_token = group * 8 * kTiles, tokens = min(a.tokens - first_token, 8 * kTiles);
  auto* entries =
      reinterpret_cast<MaskEntry*>(shared + (warp + 1) * warp_bytes - kMaskWords * static_cast<int>(sizeof(MaskEntry)));
  BitsRing ring{b, row_block, warp, kWarps, (a.column_blocks - warp + kWarps - 1) / kWarps,
                first_token, tokens, shared + warp * warp_bytes, kStages, full, lane};
  ring.start();
  float acc[2][kTiles][4] = {}, signed_sums[kSigns ? kSigns : 1][2][kTiles][4] = {};
  const unsigned stamp = warp < a.rank_steps ? stamp_of(a) : 0;
  unsigned finished = ~0u;
  for (int i = 0; i < ring.count; ++i) {
    if (i == ring.count - 1) finished = multiply_ranks<T, kTiles, kWarps>(acc, a, row_block, group, stamp, warp, lane);
    const unsigned char* block = ring.acquire();
    const unsigned char* x = block + b.block_capacity;
    make_entries(entries, block, lane);
    if constexpr (kSigns > 0) {
      const uint4* v = b.sign_v + static_cast<std::size_t>(warp + i * kWarps) * kSigns * 16;
#pragma unroll
      for (int k = 0; k < kSigns; ++k)
        multiply_signs<T, kTiles>(signed_sums[k], block + kMaskBytes, v + k * 16, x, tokens, lane);
    }
    multiply_bitmap<T, kTiles>(
        acc, entries, reinterpret_cast<const std::uint16_t*>(block + kMaskBytes + (kSigns ? kSignBytes : 0)), x, tokens,
        lane);
    ring.release(i);
  }
  if (ring.count <= 0) finished = multiply_ranks<T, kTiles, kWarps>(acc, a, row_block, group, stamp, warp, lane);
  if constexpr (kSigns > 0) add_signed<T, kTiles, kSigns>(acc, signed_sums, b, row_block, lane);
  store_sums<kTiles>(reinterpret_cast<float*>(shared + warp * warp_bytes), acc, lane);
  __syncthreads();
  for (int e = threadIdx.x; e < tokens * kRowBlock; e += kWarps * 32) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      sum += reinterpret_cast<const float*>(shared + w * warp_bytes)[e / kRowBlock * kSumStride + e % kRowBlock];
    store_y<T>(a, first_token + e / kRowBlock, row_block * kRowBlock + e % kRowBlock, sum);
  }
  if (finished != ~0u) end_launch(a, finished, stamp);
}

// Grid: first_block, then row blocks for each group of 8 kTiles tokens.
template <typename T, int kTiles, int kWarps, int kStages, int kSigns>
__global__ void __launch_bounds__(kWarps * 32) bits_kernel(const BitsArgs a) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Barrier full[kWarps][kStages];
  const int index = blockIdx.x;
  const int warp_bytes = bits_warp_bytes<kTiles, kStages>(a.block_capacity, a.common.tokens);
  allow_next_kernel();
  if (index < a.common.first_block) {
    inner_block<T, kTiles, kWarps, false>(a.common, index, shared);
  } else {
    const int row_blocks = blocks(a.common.d_out, kRowBlock), rest = index - a.common.first_block;
    bits_block<T, kTiles, kWarps, kStages, kSigns>(a, rest % row_blocks, rest / row_blocks, shared, warp_bytes,
                                                   full[threadIdx.x / 32]);
  }
}

}  // namespace sparlow::kernels
