// Step 1: weights go from global memory straight into the registers the matrix instruction reads, one block ahead.
// No shared memory but for the final sum.
#pragma once

#include "../../../cuda/kernels/nm24_decode.cuh"

namespace ladder {

using namespace sparlow::kernels;

struct Block {
  uint4 units[9];
  __device__ __forceinline__ void load(const uint4* from) {
#pragma unroll
    for (int i = 0; i < 9; ++i) units[i] = __ldcs(from + i * 32);
  }
};

template <typename T, int kTiles, int kWarps>
__global__ void __launch_bounds__(kWarps * 32) registers_kernel(const ForwardArgs a) {
  __shared__ float sums[kWarps][8 * kTiles * kSumStride];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row_block = blockIdx.x;
  const uint4* w = a.weights + (static_cast<std::size_t>(row_block) * a.column_blocks + warp) * kBlockUnits + lane;
  allow_next_kernel();
  Block next;
  if (warp < a.column_blocks) next.load(w);
  wait_for_previous_kernel();
  float acc[2][kTiles][4] = {};
  const uint4* u = a.u + static_cast<std::size_t>(row_block) * a.rank_steps * 64 + lane;
  for (int step = warp; step < a.rank_steps; step += kWarps)
    multiply_low_rank<T, kTiles>(acc, a, row_block, step, __ldg(u + step * 64), __ldg(u + step * 64 + 32), lane);
  for (int i = warp; i < a.column_blocks; i += kWarps) {
    const Block now = next;
    w += kWarps * kBlockUnits;
    uint4 x[4][kTiles];
    load_x_block<kTiles>(x, a, i, lane);
    if (i + kWarps < a.column_blocks) next.load(w);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const std::uint32_t upper = step < 2 ? now.units[8].x : now.units[8].y;
        const std::uint32_t lower = step < 2 ? now.units[8].z : now.units[8].w;
        if (step % 2 == 0) {
          mma_sparse<T, 0>(acc[0][t], now.units[step], x[step][t], upper);
          mma_sparse<T, 0>(acc[1][t], now.units[4 + step], x[step][t], lower);
        } else {
          mma_sparse<T, 1>(acc[0][t], now.units[step], x[step][t], upper);
          mma_sparse<T, 1>(acc[1][t], now.units[4 + step], x[step][t], lower);
        }
      }
  }
  store_sums<kTiles>(sums[warp], acc, lane);
  __syncthreads();
  for (int e = threadIdx.x; e < 8 * kTiles * kRowBlock; e += kWarps * 32) {
    float sum = 0;
    for (int k = 0; k < kWarps; ++k) sum += sums[k][e / kRowBlock * kSumStride + e % kRowBlock];
    store_y<T>(a, e / kRowBlock, row_block * kRowBlock + e % kRowBlock, sum);
  }
}

}  // namespace ladder
