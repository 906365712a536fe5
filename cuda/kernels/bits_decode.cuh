// y = x sᵀ + ((us vs) ∘ signs) applied to x + t uᵀ + bias for a few tokens, bound by reading s and the signs.
//
// Built like nm24_decode.cuh: a block has 16 rows of a bitmap or 32 of nm24, its warps take turns in blocks of 128
// columns and add up at the end.
#pragma once

#include "bits_columns.cuh"
#include "bits_inner.cuh"
#include "bits_ranks.cuh"
#include "bits_ring.cuh"
#include "nm24_decode.cuh"

namespace sparlow::kernels {

template <bool kBitmap>
constexpr int kRowTiles = kBitmap ? 1 : kRowBlock / kTileRows;
template <bool kBitmap>
constexpr int kSumsStride = kTileRows * kRowTiles<kBitmap> + 4;  // lanes of a quad fall into different banks

// Shared memory of a warp: its ring, which its sums replace at the end, and the entries of the block it works on.
template <bool kBitmap, int kTiles, int kStages>
SPARLOW_HD int bits_warp_bytes(int capacity, int tokens) {
  const int in_group = tokens < 8 * kTiles ? tokens : 8 * kTiles;
  const int ring = kStages * (kBitmap ? capacity : WarpRing::stage_bytes(in_group, capacity / 16));
  constexpr int sums = 8 * kTiles * kSumsStride<kBitmap> * 4;
  return (ring > sums ? ring : sums) + (kBitmap ? kMaskWords * static_cast<int>(sizeof(MaskEntry)) : 0);
}

// One row of blocks, as the warps of a block share it.
struct Share {
  int row_block, warp, lane;
  int count;  // column blocks of this warp
  int first_token, tokens;
  unsigned char* memory;  // this warp's
  Barrier* full;
};

// acc += this warp's column blocks of a bitmap, sums += the same with its signs.
template <typename T, int kTiles, int kWarps, int kStages, int kSigns, int kSums>
__device__ __forceinline__ void multiply_bitmaps(float (&acc)[1][kTiles][4], float (&sums)[kSums][1][kTiles][4],
                                                 const BitsArgs& b, const Share& share, const NibbleOf& nibble,
                                                 MaskEntry* entries, Ranks<T, 1, kTiles, kWarps>& ranks) {
  constexpr int kSteps = 4 / kTiles;  // of which x is in registers at a time
  BitsRing<kStages> ring{
      b,          b.offsets + static_cast<std::size_t>(share.row_block) * b.common.column_blocks + share.warp,
      kWarps,     share.count,
      share.lane, {share.memory, b.block_capacity, kStages, share.full}};
  ring.start();
  wait_for_previous_kernel();
  ranks.begin();
  for (int i = 0; i < share.count; ++i) {
    if (i == share.count - 1) ranks.add(acc);
    const int column_block = share.warp + i * kWarps;
    Columns<kTiles, kSteps> in;
    in.load(b.common, column_block * kColumnBlock, share.first_token, share.lane);
    const unsigned char *stage = ring.acquire(), *masks = stage + (kSigns ? kSignBytes : 0);
    const uint2 signs = kSigns ? reinterpret_cast<const uint2*>(stage)[share.lane] : make_uint2(0, 0);
    make_entries(entries, masks, shared_address(masks + kMaskBytes), share.lane);
    __syncwarp();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if (step && step % kSteps == 0)
        in.load(b.common, column_block * kColumnBlock + step * kStep, share.first_token, share.lane);
      uint4 v[kSums];
      if constexpr (kSigns > 0) load_sign_v(v, b, column_block, step, share.lane);
      multiply_bitmap<T, kTiles>(acc[0], entries, step, in.x[step % kSteps], nibble, share.lane);
#pragma unroll
      for (int k = 0; k < kSigns; ++k)
        if (kSigns == 1 || k < b.sign_rank)
          multiply_signs<T, kTiles>(sums[k][0], signs, v[k], step, in.x[step % kSteps]);
    }
    ring.release(i);
  }
}

// The same of nm24, whose x is in the stage.
template <typename T, int kTiles, int kWarps, int kStages, int kSigns>
__device__ __forceinline__ void multiply_nm24(float (&acc)[2][kTiles][4], float (&sums)[kSigns][2][kTiles][4],
                                              const BitsArgs& b, const Share& share,
                                              Ranks<T, 2, kTiles, kWarps>& ranks) {
  const int units = b.block_capacity / 16, lane = share.lane;
  WarpRing ring(b.common, b.common.weights + static_cast<std::size_t>(share.row_block) * b.common.column_blocks * units,
                share.warp, kWarps, share.count, share.first_token, share.tokens, share.memory, kStages, share.full,
                lane, units);
  ring.start();
  ranks.begin();
  for (int i = 0; i < share.count; ++i) {
    if (i == share.count - 1) ranks.add(acc);
    const unsigned char *stage = ring.acquire(), *x_rows = stage + b.block_capacity + lane % 4 * 16;
    const uint2 signs[2] = {reinterpret_cast<const uint2*>(stage)[lane],
                            reinterpret_cast<const uint2*>(stage + kSignBytes)[lane]};
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint4 v[kSigns], x[kTiles];
      load_sign_v(v, b, share.warp + i * kWarps, step, lane);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        x[t] = *reinterpret_cast<const uint4*>(x_rows + min(8 * t + lane / 4, share.tokens - 1) * kXStride + step * 64);
#pragma unroll
      for (int k = 0; k < kSigns; ++k)
#pragma unroll
        for (int m = 0; m < 2; ++m)
          if (kSigns == 1 || k < b.sign_rank) multiply_signs<T, kTiles>(sums[k][m], signs[m], v[k], step, x);
    }
    multiply_block<T, kTiles>(acc, stage + 2 * kSignBytes, share.tokens, lane);
    ring.release(i);
  }
}

template <typename T, bool kBitmap, int kTiles, int kWarps, int kStages, int kSigns>
__device__ __forceinline__ void bits_block(const BitsArgs& b, int row_block, int group, unsigned char* shared,
                                           int warp_bytes, Barrier* full) {
  constexpr int kMs = kRowTiles<kBitmap>, kRows = kMs * kTileRows, kStride = kSumsStride<kBitmap>;
  const ForwardArgs& a = b.common;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_token = group * 8 * kTiles;
  const Share share{row_block,
                    warp,
                    lane,
                    (a.column_blocks - warp + kWarps - 1) / kWarps,
                    first_token,
                    min(a.tokens - first_token, 8 * kTiles),
                    shared + warp * warp_bytes,
                    full};
  float acc[kMs][kTiles][4] = {}, sums[kSigns ? kSigns : 1][kMs][kTiles][4] = {};
  Ranks<T, kMs, kTiles, kWarps> ranks{a, row_block, group, warp, lane};
  if constexpr (kBitmap) {
    auto* entries = reinterpret_cast<MaskEntry*>(share.memory + warp_bytes) - kMaskWords;
    multiply_bitmaps<T, kTiles, kWarps, kStages, kSigns>(acc, sums, b, share, NibbleOf(lane), entries, ranks);
  } else {
    multiply_nm24<T, kTiles, kWarps, kStages, kSigns>(acc, sums, b, share, ranks);
  }
  if (share.count <= 0) ranks.add(acc);
  if constexpr (kSigns > 0) add_signed<T, kMs, kTiles, kSigns>(acc, sums, b, row_block, lane);
  auto* own = reinterpret_cast<float*>(share.memory);
#pragma unroll
  for (int m = 0; m < kMs; ++m)
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        own[(8 * t + lane % 4 * 2 + i % 2) * kStride + m * 16 + lane / 4 + i / 2 * 8] = acc[m][t][i];
  __syncthreads();
  for (int e = threadIdx.x; e < share.tokens * kRows; e += kWarps * 32) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      sum += reinterpret_cast<const float*>(shared + w * warp_bytes)[e / kRows * kStride + e % kRows];
    store_y<T>(a, first_token + e / kRows, row_block * kRows + e % kRows, sum);
  }
  ranks.end();
}

// Grid: first_block, then row blocks for each group of 8 kTiles tokens. kResident: blocks a multiprocessor should hold.
template <typename T, bool kBitmap, int kTiles, int kWarps, int kStages, int kSigns, int kResident>
__global__ void __launch_bounds__(kWarps * 32, kResident) bits_kernel(const BitsArgs a) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Barrier full[kWarps][kStages];
  const int index = blockIdx.x;
  const int warp_bytes = bits_warp_bytes<kBitmap, kTiles, kStages>(a.block_capacity, a.common.tokens);
  allow_next_kernel();
  if (index < a.common.first_block) {
    for (int unit = index; unit < a.t_units; unit += a.common.first_block) {
      if (unit != index) __syncthreads();
      inner_block<T, kTiles, kWarps, false>(a.common, unit, shared);
    }
  } else {
    const int row_blocks = blocks(a.common.d_out, kRowTiles<kBitmap> * kTileRows);
    int row_block = index - a.common.first_block, group = 0;
    for (; row_block >= row_blocks; row_block -= row_blocks) ++group;  // a division takes longer
    bits_block<T, kBitmap, kTiles, kWarps, kStages, kSigns>(a, row_block, group, shared, warp_bytes,
                                                            full[threadIdx.x / 32]);
  }
}

}  // namespace sparlow::kernels
