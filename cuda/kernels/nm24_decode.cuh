// y = x sᵀ + t uᵀ + bias for a few tokens, bound by reading s.
//
// A block has 32 rows; its warps take turns in blocks of 128 columns and add up at the end.
#pragma once

#include "nm24_inner.cuh"
#include "nm24_ring.cuh"
#include "nm24_store.cuh"

namespace sparlow::kernels {

// One block of 32 x 128 weights against 128 x 8 kTiles of x.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_block(float (&acc)[2][kTiles][4], const unsigned char* stage, int tokens,
                                               int lane) {
  const auto* w = reinterpret_cast<const uint4*>(stage) + lane;
  const auto* p = reinterpret_cast<const std::uint32_t*>(stage + kValueUnits * 16) + lane;
  const std::uint32_t positions[2][2] = {{p[0], p[32]}, {p[64], p[96]}};
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint4 upper = load_matrices(w + step * 32), lower = load_matrices(w + (4 + step) * 32);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const uint4 x = load_x(stage + kBlockBytes, t, step, tokens, lane);
      if (step % 2 == 0) {
        mma_sparse<T, 0>(acc[0][t], upper, x, positions[step / 2][0]);
        mma_sparse<T, 0>(acc[1][t], lower, x, positions[step / 2][1]);
      } else {
        mma_sparse<T, 1>(acc[0][t], upper, x, positions[step / 2][0]);
        mma_sparse<T, 1>(acc[1][t], lower, x, positions[step / 2][1]);
      }
    }
  }
}

// This warp's share of the rank steps: every kWarps-th. Answers what finish_with_t did.
template <typename T, int kTiles, int kWarps>
__device__ __forceinline__ unsigned multiply_ranks(float (&acc)[2][kTiles][4], const ForwardArgs& a, int row_block,
                                                   int group, unsigned stamp, int warp, int lane) {
  if (warp >= a.rank_steps) return ~0u;
  const uint4* u = a.u + static_cast<std::size_t>(row_block) * a.rank_steps * 64 + lane;
  const int first_unit = (group * a.parts + a.part_of(row_block)) * a.rank_steps;
  for (int step = warp; step < a.rank_steps; step += kWarps) {
    const uint4 upper = __ldg(u + step * 64), lower = __ldg(u + step * 64 + 32);
    const Mailbox* shares =
        a.t_shares + static_cast<std::size_t>(first_unit + step) * (kInnerSplits * kTiles * 64) + lane;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float4 sum{};
      add_shares<kTiles, kInnerSplits>(sum, shares + t * 64, 0, stamp);
      __syncwarp();
      const uint4 operand = operand_of<T>(sum);
      mma_dense<T>(acc[0][t], upper, operand.x, operand.y);
      mma_dense<T>(acc[1][t], lower, operand.x, operand.y);
      mma_dense<T>(acc[0][t], upper, operand.z, operand.w);
      mma_dense<T>(acc[1][t], lower, operand.z, operand.w);
    }
  }
  return lane == 0 ? finish_with_t(a) : ~0u;
}

constexpr int kSumStride = kRowBlock + 4;  // lanes of a quad fall into different banks

template <int kTiles>
__device__ __forceinline__ void store_sums(float* sums, const float (&acc)[2][kTiles][4], int lane) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(8 * t + lane % 4 * 2 + i % 2) * kSumStride + m * 16 + lane / 4 + i / 2 * 8] = acc[m][t][i];
}

// Shared memory of a warp: its ring, which its sums replace at the end.
template <int kTiles, int kStages>
SPARLOW_HD int decode_warp_bytes(int tokens) {
  const int ring = kStages * WarpRing::stage_bytes(tokens < 8 * kTiles ? tokens : 8 * kTiles);
  constexpr int sums = 8 * kTiles * kSumStride * 4;
  return ring > sums ? ring : sums;
}

template <typename T, int kTiles, int kWarps, int kStages>
__device__ __forceinline__ void decode_block(const ForwardArgs& a, int row_block, int group, unsigned char* shared,
                                             int warp_bytes, Barrier* full) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_token = group * 8 * kTiles, tokens = min(a.tokens - first_token, 8 * kTiles);
  WarpRing ring{a,
                a.weights + static_cast<std::size_t>(row_block) * a.column_blocks * kBlockUnits,
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
  float acc[2][kTiles][4] = {};
  const unsigned stamp = warp < a.rank_steps ? stamp_of(a) : 0;
  unsigned finished = ~0u;
  for (int i = 0; i < ring.count; ++i) {
    if (i == ring.count - 1) finished = multiply_ranks<T, kTiles, kWarps>(acc, a, row_block, group, stamp, warp, lane);
    multiply_block<T, kTiles>(acc, ring.acquire(), tokens, lane);
    ring.release(i);
  }
  if (ring.count <= 0) finished = multiply_ranks<T, kTiles, kWarps>(acc, a, row_block, group, stamp, warp, lane);
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
template <typename T, int kTiles, int kWarps, int kStages>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const ForwardArgs a) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Barrier full[kWarps][kStages];
  const int warp_bytes = decode_warp_bytes<kTiles, kStages>(a.tokens), index = blockIdx.x;
  allow_next_kernel();
  if (index < a.first_block) {
    inner_block<T, kTiles, kWarps, false>(a, index, shared);
  } else {
    const int row_blocks = blocks(a.d_out, kRowBlock), rest = index - a.first_block;
    decode_block<T, kTiles, kWarps, kStages>(a, rest % row_blocks, rest / row_blocks, shared, warp_bytes,
                                             full[threadIdx.x / 32]);
  }
}

}  // namespace sparlow::kernels
