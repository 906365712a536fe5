// The end of a block of rows: the low-rank part and the scales of the signs.
#pragma once

#include "bits_args.cuh"
#include "nm24_inner.cuh"

namespace sparlow::kernels {

// A warp's share of the rank steps of its rows: every kWarps-th, as multiply_ranks of nm24_decode.cuh.
template <typename T, int kRowTiles, int kTiles, int kWarps>
struct Ranks {
  const ForwardArgs& a;
  int row_block, group, warp, lane;
  unsigned stamp = 0, finished = ~0u;

  __device__ __forceinline__ const uint4* u() const {
    const int tile = row_block * kRowTiles;
    return a.u + static_cast<std::size_t>(tile / 2) * a.rank_steps * 64 + tile % 2 * 32 + lane;
  }
  // After wait_for_previous_kernel. Asks for what add() will need of u.
  __device__ __forceinline__ void begin() {
    if (warp >= a.rank_steps) return;
    stamp = stamp_of(a);
    for (int step = warp; step < a.rank_steps; step += kWarps)
      for (int m = 0; m < kRowTiles; ++m)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(u() + step * 64 + m * 32)));
  }
  __device__ __forceinline__ void add(float (&acc)[kRowTiles][kTiles][4]) {
    if (warp >= a.rank_steps) return;
    for (int step = warp; step < a.rank_steps; step += kWarps) {
      uint4 rows[kRowTiles];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) rows[m] = __ldg(u() + step * 64 + m * 32);
      const Mailbox* shares =
          a.t_shares + static_cast<std::size_t>(group * a.rank_steps + step) * (kInnerSplits * kTiles * 64) + lane;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        float4 sum{};
        if ((group * kTiles + t) * 8 + lane / 4 < a.tokens)
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
    if (lane == 0) finished = finish_with_t(a);
  }
  __device__ __forceinline__ void end() const {
    if (finished != ~0u) end_launch(a, finished, stamp);
  }
};

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

}  // namespace sparlow::kernels
