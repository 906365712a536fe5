// y = x sᵀ + t uᵀ + bias for more tokens (sm_90a): x now weighs as much as a block's weights, so the warps of a block
// share both, and products run by warpgroup with x in shared memory.
//
// A block has 64 rows per warpgroup. The blocks of a cluster split the columns and add up in a fixed order.
#pragma once

#include "nm24_decode.cuh"
#include "nm24_warpgroup.cuh"
#include "nm24_wide_load.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// This warp's 16 rows of a stage of columns. The four warps of a warpgroup multiply together.
template <typename T, typename Shape>
__device__ __forceinline__ void multiply_columns(float (&acc)[Shape::kTiles][4], const unsigned char* stage, int tile,
                                                 int lane) {
  const auto* w = reinterpret_cast<const uint4*>(stage + Shape::kXBytes + tile / 2 * kBlockBytes) + lane;
  const auto* p = reinterpret_cast<const std::uint32_t*>(w - lane + kValueUnits) + tile % 2 * 32 + lane;
  const uint2 positions = make_uint2(p[0], p[64]);
  uint4 values[4];
#pragma unroll
  for (int s = 0; s < 4; ++s) values[s] = load_matrices(w + (tile % 2 * 4 + s) * 32);
  const std::uint64_t x = swizzled_operand(stage);
  pin<Shape::kTiles>(acc);
  warpgroup_fence();
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const std::uint64_t operand = x + (s / 2 * Shape::kHalfXBytes + s % 2 * 64) / 16;
    if (s % 2 == 0) warpgroup_sparse<T, 0>(acc, values[s], operand, s < 2 ? positions.x : positions.y);
    else warpgroup_sparse<T, 1>(acc, values[s], operand, s < 2 ? positions.x : positions.y);
  }
  warpgroup_commit();
  warpgroup_wait();
  pin<Shape::kTiles>(acc);
  for (const uint4& value : values) keep_until_here(value);
  keep_until_here(positions);
}

template <typename T, typename Shape>
__device__ __forceinline__ void multiply_rank_stage(float (&acc)[Shape::kTiles][4], const unsigned char* stage,
                                                    const uint4* t_operand, int tile, int steps, int lane) {
  const auto* u = reinterpret_cast<const uint4*>(stage + Shape::kXBytes + tile / 2 * kBlockBytes) + lane;
  for (int s = 0; s < steps; ++s) {
    const uint4 rows = u[(2 * s + tile % 2) * 32];
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t) {
      const uint4 operand = t_operand[(s * Shape::kTiles + t) * 32 + lane];
      mma_dense<T>(acc[t], rows, operand.x, operand.y);
      mma_dense<T>(acc[t], rows, operand.z, operand.w);
    }
  }
}

// A consumer warp.
template <typename T, typename Shape>
__device__ __forceinline__ void consume(float (&acc)[Shape::kTiles][4], const ForwardArgs& a,
                                        const WideRing<Shape>& ring, const WideWork& work, int warp, int lane) {
  for (int i = 0; i < work.columns; ++i) {
    ring.wait_full(i);
    multiply_columns<T, Shape>(acc, ring.stage(i), warp, lane);
    barrier_arrive_warp(ring.empty(i), lane);
  }
  for (int i = work.columns, turn = 0; i < work.count; ++i, ++turn) {
    ring.wait_full(i);
    barrier_wait(&ring.barriers.t_full, turn % 2);
    multiply_rank_stage<T, Shape>(acc, ring.stage(i), ring.t(), warp,
                                  min(a.rank_steps - work.rank_step(i), kStageRankSteps), lane);
    barrier_arrive_warp(ring.empty(i), lane);
    barrier_arrive_warp(&ring.barriers.t_empty, lane);
  }
}

// Sums lie in shared memory as [token][row]. The blocks of a cluster (1 << split_bits of them) hand each other their
// shares of the rows; each stores its own.
template <typename T, typename Shape>
__device__ __forceinline__ void finish_wide(const ForwardArgs& a, float* sums, int first_token, int tokens,
                                            int first_row, int split, int split_bits) {
  constexpr int kQuads = Shape::kRows / 4;
  const int share_bits = 31 - __clz(kQuads) - split_bits, share = 1 << share_bits;
  auto* inbox = reinterpret_cast<float4*>(sums + Shape::kSumBytes / 4);  // [split][token][quad of the share]
  if (split_bits) cluster_wait();                                        // the others' rings are drained
#pragma unroll 1
  for (int e = threadIdx.x; e < tokens * kQuads; e += Shape::kThreads) {
    const int token = e / kQuads, quad = e % kQuads;
    const float4 sum = *reinterpret_cast<const float4*>(sums + token * Shape::kStride + 4 * quad);
    if (split_bits)
      store_in_cluster(inbox + (((split * Shape::kTokens + token) << share_bits) | (quad & (share - 1))),
                       quad >> share_bits, sum);
    else store_four<T>(a, first_token + token, first_row + 4 * quad, sum);
  }
  if (!split_bits) return;
  cluster_arrive();
  cluster_wait();
#pragma unroll 1
  for (int e = threadIdx.x; e < tokens << share_bits; e += Shape::kThreads) {
    float4 sum{};
    for (int s = 0; s < 1 << split_bits; ++s) add(sum, inbox[((s * Shape::kTokens) << share_bits) + e]);
    store_four<T>(a, first_token + (e >> share_bits), first_row + 4 * ((split << share_bits) + (e & (share - 1))), sum);
  }
}

template <typename T, typename Shape>
__device__ __forceinline__ void wide_block(const ForwardArgs& a, const CUtensorMap* x_map, const WideWork& work,
                                           unsigned char* shared, int split, int split_bits) {
  __shared__ WideBarriers<Shape::kStages> barriers;
  const WideRing<Shape> ring{shared, barriers};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  float acc[Shape::kTiles][4] = {};
  unsigned finished = ~0u, stamp = 0;
  if (warp < Shape::kWarps) {
    consume<T, Shape>(acc, a, ring, work, warp, lane);
  } else if (warp == Shape::kWarps) {
    if (lane == 0) WideProducer<Shape>{a, x_map, ring, work}.run();
    __syncwarp();
  } else {
    wait_for_previous_kernel();
    stamp = stamp_of(a);
    finished = carry_t<Shape>(a, ring, work, stamp, lane);
  }
  __syncthreads();  // the ring is drained; sums take its place
  if (split_bits) cluster_arrive();
  float* sums = reinterpret_cast<float*>(shared);
  if (warp < Shape::kWarps) {
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(8 * t + lane % 4 * 2 + i % 2) * Shape::kStride + warp * 16 + lane / 4 + i / 2 * 8] = acc[t][i];
  }
  __syncthreads();
  const int first_token = work.token_group * Shape::kTokens;
  finish_wide<T, Shape>(a, sums, first_token, min(a.tokens - first_token, Shape::kTokens),
                        work.first_row_block * kRowBlock, split, split_bits);
  if (finished != ~0u) end_launch(a, finished, stamp);
}

#endif  // SPARLOW_SM90

// Grid: first_block, then splits x groups of row blocks x groups of 8 kTiles tokens. Splits: 1, 2 or 4, a cluster.
// A block's rows are of one part.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    wide_kernel(const ForwardArgs a, const __grid_constant__ CUtensorMap x_map) {
#if SPARLOW_SM90
  extern __shared__ unsigned char raw[];
  unsigned char* shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  allow_next_kernel();
  const int index = static_cast<int>(blockIdx.x) - a.first_block;
  if (index < 0) {
    inner_block<T, Shape::kInnerTiles, Shape::kWarps, true>(a, blockIdx.x, shared);
    return;
  }
  const int split_bits = 31 - __clz(a.splits), split = index & (a.splits - 1);
  const int row_groups = blocks(a.d_out, Shape::kRows), rest = index >> split_bits;
  const int stages = a.column_blocks + blocks(a.rank_steps, kStageRankSteps), first = (stages * split) >> split_bits;
  const int count = ((stages * (split + 1)) >> split_bits) - first;
  const WideWork work{first,
                      count,
                      min(count, max(a.column_blocks - first, 0)),
                      a.column_blocks,
                      rest / row_groups,
                      rest % row_groups * Shape::kRowBlocks};
  wide_block<T, Shape>(a, &x_map, work, shared, split, split_bits);
#endif
}

}  // namespace sparlow::kernels
