// y = x sᵀ + ((us vs) ∘ signs) applied to x + t uᵀ + bias for a few tokens, bound by reading s and the signs.
//
// Built like nm24_decode.cuh: a block has 16 or 32 rows, its warps take turns in blocks of 128 columns and add up at
// the end.
#pragma once

#include "bits_inner.cuh"
#include "nm24_decode.cuh"

namespace sparlow::kernels {

struct BitsArgs {
  ForwardArgs common;            // weights: the blocks one after the other
  const std::uint32_t* offsets;  // of blocks in units of 16 bytes; one more at the end
  const uint4* sign_v;           // [column block][rank of the signed term][quad lane][step]
  const void* sign_u;            // [d_out][rank of the signed term]
  int sign_rank;
  int block_rows;      // rows of blocks
  int block_capacity;  // bytes of the largest block there may be
};

// What one warp reads: for each of its 128 columns kBlocks blocks, one below the other, whose sizes differ, and x.
template <int kBlocks>
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
  uint2 next[kBlocks]{};  // where the next blocks to be read begin and end
#if SPARLOW_SM90
  std::uint64_t policy = evict_first();
#endif

  static SPARLOW_HD int stage_bytes(int capacity, int tokens) { return kBlocks * capacity + tokens * kXStride; }

  __device__ __forceinline__ unsigned char* stage(int i) { return memory + i * stage_bytes(a.block_capacity, tokens); }
  __device__ __forceinline__ void find(int i) {
    if (i >= count) return;
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) {
      const int row = row_block * kBlocks + m;
      const std::uint32_t* at = a.offsets + static_cast<std::size_t>(row) * a.common.column_blocks + first + i * stride;
      next[m] = row < a.block_rows ? make_uint2(__ldg(at), __ldg(at + 1)) : make_uint2(0, 0);
    }
  }
  __device__ __forceinline__ void fill_blocks(int to, int i) {
    uint2 now[kBlocks];
    int units[kBlocks], all = 0;
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) {
      now[m] = next[m];
      units[m] = min(static_cast<int>(now[m].y - now[m].x), a.block_capacity / 16);
      all += units[m];
    }
    find(i + 1);
#if SPARLOW_SM90
    if (lane == 0) {
      barrier_expect(&full[to], all * 16);
#pragma unroll
      for (int m = 0; m < kBlocks; ++m)
        if (units[m])
          bulk_copy(stage(to) + m * a.block_capacity, a.common.weights + now[m].x, units[m] * 16, &full[to], policy);
    }
#else
    for (int m = 0; m < kBlocks; ++m)
      for (int unit = lane; unit < units[m]; unit += 32)
        copy_16(stage(to) + m * a.block_capacity + unit * 16, a.common.weights + now[m].x + unit, 16);
#endif
  }
  __device__ __forceinline__ void fill_x(int to, int i) {
    copy_x(stage(to) + kBlocks * a.block_capacity, a.common, first_token, tokens, first + i * stride, lane);
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
    for (int i = 0; i < early; ++i) fill_blocks(i, i);
    wait_for_previous_kernel();
    for (int i = 0; i < early; ++i) fill_x(i, i);
  }
  __device__ __forceinline__ const unsigned char* acquire() {
    barrier_wait(&full[slot], parity);
    return stage(slot);
  }
  __device__ __forceinline__ void release(int i) {
    __syncwarp();
    if (i + stages < count) fill_blocks(slot, i + stages), fill_x(slot, i + stages);
    if (++slot == stages) slot = 0, parity ^= 1;
  }
};

template <int kRowTiles>
constexpr int kSumsStride = kTileRows * kRowTiles + 4;  // lanes of a quad fall into different banks

// Shared memory of a warp: its ring, which its sums replace at the end, and the entries of the block it works on.
template <bool kBitmap, int kRowTiles, int kTiles, int kStages>
SPARLOW_HD int bits_warp_bytes(int capacity, int tokens) {
  const int ring =
      kStages * BitsRing < kBitmap ? kRowTiles : 1 > ::stage_bytes(capacity, tokens < 8 * kTiles ? tokens : 8 * kTiles);
  constexpr int sums = 8 * kTiles * kSumsStride<kRowTiles> * 4;
  return (ring > sums ? ring : sums) + (kBitmap ? kRowTiles * kMaskWords * static_cast<int>(sizeof(MaskEntry)) : 0);
}

// This warp's share of the rank steps, as multiply_ranks of nm24_decode.cuh.
template <typename T, int kRowTiles, int kTiles, int kWarps>
__device__ __forceinline__ unsigned add_ranks(float (&acc)[kRowTiles][kTiles][4], const ForwardArgs& a, int row_block,
                                              int group, unsigned stamp, int warp, int lane) {
  if (warp >= a.rank_steps) return ~0u;
  const int tile = row_block * kRowTiles;
  const uint4* u = a.u + static_cast<std::size_t>(tile / 2) * a.rank_steps * 64 + tile % 2 * 32 + lane;
  for (int step = warp; step < a.rank_steps; step += kWarps) {
    uint4 rows[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) rows[m] = __ldg(u + step * 64 + m * 32);
    const Mailbox* shares =
        a.t_shares + static_cast<std::size_t>(group * a.rank_steps + step) * (kInnerSplits * kTiles * 64) + lane;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float4 sum{};
      add_shares<kTiles, kInnerSplits>(sum, shares + t * 64, 0, stamp);
      __syncwarp();
      const uint4 operand = operand_of<T>(sum);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        mma_dense<T>(acc[m][t], rows[m], operand.x, operand.y);
        mma_dense<T>(acc[m][t], rows[m], operand.z, operand.w);
      }
    }
  }
  return lane == 0 ? finish_with_t(a) : ~0u;
}

// acc += us (what the signs gave for each rank).
template <typename T, int kRowTiles, int kTiles, int kSigns>
__device__ __forceinline__ void add_signed(float (&acc)[kRowTiles][kTiles][4],
                                           const float (&sums)[kSigns][kRowTiles][kTiles][4], const BitsArgs& a,
                                           int row_block, int lane) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (row_block * kRowTiles + m) * kTileRows + lane / 4 + 8 * half;
#pragma unroll
      for (int k = 0; k < kSigns; ++k) {
        if (k >= a.sign_rank || row >= a.common.d_out) break;
        const float u = to_float(static_cast<const T*>(a.sign_u)[static_cast<std::size_t>(row) * a.sign_rank + k]);
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
          for (int i = 0; i < 2; ++i) acc[m][t][2 * half + i] += u * sums[k][m][t][2 * half + i];
      }
    }
}

// One stage of s and signs against 128 columns of x.
template <typename T, bool kBitmap, int kRowTiles, int kTiles, int kSigns, int kSums>
__device__ __forceinline__ void multiply_stage(float (&acc)[kRowTiles][kTiles][4],
                                               float (&sums)[kSums][kRowTiles][kTiles][4], const BitsArgs& a,
                                               const unsigned char* stage, MaskEntry* entries, int row_block,
                                               int column_block, int tokens, int lane) {
  // A bitmap's blocks have their signs each, nm24's one block those of both its tiles.
  const int tile_bytes = kBitmap ? a.block_capacity : kSignBytes;
  const unsigned char* x_rows = stage + (kBitmap ? kRowTiles : 1) * a.block_capacity;
  const uint4* v = a.sign_v + static_cast<std::size_t>(column_block) * a.sign_rank * kSignVUnits + lane % 4 * 4;
  uint2 signs[kRowTiles];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    const unsigned char *tile = stage + m * tile_bytes, *masks = tile + (kSigns ? kSignBytes : 0);
    if constexpr (kSigns > 0) signs[m] = reinterpret_cast<const uint2*>(tile)[lane];
    if constexpr (kBitmap)
      make_entries(entries + m * kMaskWords, masks, shared_address(masks + kMaskBytes),
                   row_block * kRowTiles + m < a.block_rows, lane);
  }
  __syncwarp();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if (!kBitmap && !kSigns) break;
    uint4 x[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) x[t] = load_x(x_rows, t, step, tokens, lane);
#pragma unroll
    for (int k = 0; k < kSigns; ++k) {
      if (k >= a.sign_rank) break;
      const uint4 pairs = __ldg(v + k * kSignVUnits + step);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) multiply_signs<T, kTiles>(sums[k][m], signs[m], pairs, step, x);
    }
    if constexpr (kBitmap) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) multiply_bitmap<T, kTiles>(acc[m], entries + m * kMaskWords, step, x, lane);
    }
  }
  if constexpr (!kBitmap) multiply_block<T, kTiles>(acc, stage + kRowTiles * kSignBytes, tokens, lane);
}

template <typename T, bool kBitmap, int kRowTiles, int kTiles, int kWarps, int kStages, int kSigns>
__device__ __forceinline__ void bits_block(const BitsArgs& b, int row_block, int group, unsigned char* shared,
                                           int warp_bytes, Barrier* full) {
  constexpr int kRows = kRowTiles * kTileRows, kStride = kSumsStride<kRowTiles>;
  const ForwardArgs& a = b.common;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_token = group * 8 * kTiles, tokens = min(a.tokens - first_token, 8 * kTiles);
  auto* sums = reinterpret_cast<float*>(shared + warp * warp_bytes);
  auto* entries = reinterpret_cast<MaskEntry*>(shared + (warp + 1) * warp_bytes) - kRowTiles * kMaskWords;
  BitsRing<kBitmap ? kRowTiles : 1> ring{b,
                                         row_block,
                                         warp,
                                         kWarps,
                                         (a.column_blocks - warp + kWarps - 1) / kWarps,
                                         first_token,
                                         tokens,
                                         shared + warp * warp_bytes,
                                         kStages,
                                         full,
                                         lane};
  ring.start();
  float acc[kRowTiles][kTiles][4] = {}, signed_sums[kSigns ? kSigns : 1][kRowTiles][kTiles][4] = {};
  const unsigned stamp = warp < a.rank_steps ? stamp_of(a) : 0;
  unsigned finished = ~0u;
  for (int i = 0; i < ring.count; ++i) {
    if (i == ring.count - 1)
      finished = add_ranks<T, kRowTiles, kTiles, kWarps>(acc, a, row_block, group, stamp, warp, lane);
    multiply_stage<T, kBitmap, kRowTiles, kTiles, kSigns>(acc, signed_sums, b, ring.acquire(), entries, row_block,
                                                          warp + i * kWarps, tokens, lane);
    ring.release(i);
  }
  if (ring.count <= 0) finished = add_ranks<T, kRowTiles, kTiles, kWarps>(acc, a, row_block, group, stamp, warp, lane);
  if constexpr (kSigns > 0) add_signed<T, kRowTiles, kTiles, kSigns>(acc, signed_sums, b, row_block, lane);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(8 * t + lane % 4 * 2 + i % 2) * kStride + m * 16 + lane / 4 + i / 2 * 8] = acc[m][t][i];
  __syncthreads();
  for (int e = threadIdx.x; e < tokens * kRows; e += kWarps * 32) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      sum += reinterpret_cast<const float*>(shared + w * warp_bytes)[e / kRows * kStride + e % kRows];
    store_y<T>(a, first_token + e / kRows, row_block * kRows + e % kRows, sum);
  }
  if (finished != ~0u) end_launch(a, finished, stamp);
}

// Grid: first_block, then row blocks for each group of 8 kTiles tokens.
template <typename T, bool kBitmap, int kRowTiles, int kTiles, int kWarps, int kStages, int kSigns>
__global__ void __launch_bounds__(kWarps * 32, kBitmap&& kRowTiles == 1 && kTiles == 1 && kSigns < 2 ? 32 / kWarps : 1)
    bits_kernel(const BitsArgs a) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Barrier full[kWarps][kStages];
  static_assert(kBitmap || kRowTiles == 2);
  const int index = blockIdx.x;
  const int warp_bytes = bits_warp_bytes<kBitmap, kRowTiles, kTiles, kStages>(a.block_capacity, a.common.tokens);
  allow_next_kernel();
  if (index < a.common.first_block) {
    inner_block<T, kTiles, kWarps, false>(a.common, index, shared);
  } else {
    const int row_blocks = blocks(a.common.d_out, kRowTiles * kTileRows), rest = index - a.common.first_block;
    bits_block<T, kBitmap, kRowTiles, kTiles, kWarps, kStages, kSigns>(a, rest % row_blocks, rest / row_blocks, shared,
                                                                       warp_bytes, full[threadIdx.x / 32]);
  }
}

}  // namespace sparlow::kernels
