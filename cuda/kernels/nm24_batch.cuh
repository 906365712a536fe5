// Second kernel of a forward pass for 17 to 64 tokens (sm_90): as decode, but x is as large as a block's weights, so
// the warps of a block share both through one ring that a producer warp fills.
//
// A block has 32 kRowBlocks rows. Consumer warps form a grid of row groups times column groups: within each ring stage
// (128 columns) a warp takes 32 kRowBlocks / kRowGroups rows and 4 / kColumnGroups steps. Blocks of a cluster split the
// columns and add up in a fixed order.
#pragma once

#include "nm24_args.cuh"
#include "nm24_decode.cuh"

namespace sparlow::kernels {

constexpr int kBatchWarps = 8;  // consumers

template <int kTiles, int kRowBlocks, int kRowGroups, int kStages>
struct BatchShape {
  static constexpr int kColumnGroups = kBatchWarps / kRowGroups, kSteps = 4 / kColumnGroups;
  static constexpr int kTilesOfRows = 2 * kRowBlocks / kRowGroups;  // 16-row tiles of a warp
  static constexpr int kRows = kRowBlocks * kRowBlock, kTokens = 8 * kTiles;
  static constexpr int kWeightBytes = kRowBlocks * kBlockBytes, kXBytes = 4 * kTiles * 512;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static constexpr int kStride = kRows + 4;
  static constexpr int kSumBytes = kColumnGroups * kTokens * kStride * 4, kInboxBytes = kTokens * kRows * 4;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kSharedBytes = kRingBytes > kSumBytes + kInboxBytes ? kRingBytes : kSumBytes + kInboxBytes;
  static_assert(kColumnGroups * kRowGroups == kBatchWarps && kSteps * kColumnGroups == 4 && kSteps <= 2);
};

#if SPARLOW_SM90

template <typename Shape, int kStages>
struct BatchRing {
  unsigned char* memory;
  Barrier *full, *empty;

  __device__ __forceinline__ unsigned char* stage(int i) { return memory + i % kStages * Shape::kStageBytes; }

  __device__ __forceinline__ void copy_weights(const ForwardArgs& a, int first_row_block, int column_block, int i,
                                               std::uint64_t policy) {
    constexpr int kBlocks = Shape::kRows / kRowBlock;
    barrier_expect(&full[i % kStages], Shape::kStageBytes);
    const int last = blocks(a.d_out, kRowBlock) - 1;
    for (int r = 0; r < kBlocks; ++r) {
      const int row_block = min(first_row_block + r, last);  // rows past the end are read again and not stored
      bulk_copy(stage(i) + r * kBlockBytes,
                a.weights + (static_cast<std::size_t>(row_block) * a.column_blocks + column_block) * kBlockUnits,
                kBlockBytes, &full[i % kStages], policy);
    }
  }
  __device__ __forceinline__ void copy_x(const ForwardArgs& a, int column_block, int i, std::uint64_t policy) {
    bulk_copy(stage(i) + Shape::kWeightBytes,
              a.x_operand + static_cast<std::size_t>(column_block) * (Shape::kXBytes / 16), Shape::kXBytes,
              &full[i % kStages], policy);
  }
  // One thread.
  __device__ __forceinline__ void produce(const ForwardArgs& a, int first_row_block, int begin, int count) {
    const std::uint64_t once = evict_first(), again = evict_last();
    const int early = min(kStages, count);
    for (int i = 0; i < early; ++i) copy_weights(a, first_row_block, begin + i, i, once);
    wait_for_previous_kernel();
    for (int i = 0; i < early; ++i) copy_x(a, begin + i, i, again);
    for (int i = kStages; i < count; ++i) {
      barrier_wait(&empty[i % kStages], (i / kStages - 1) % 2);
      copy_weights(a, first_row_block, begin + i, i, once);
      copy_x(a, begin + i, i, again);
    }
  }
};

// Steps `first_step`.. of one ring stage for the 16-row tiles of a warp.
template <typename T, typename Shape, int kTiles>
__device__ __forceinline__ void multiply_stage(float (&acc)[Shape::kTilesOfRows][kTiles][4], const unsigned char* stage,
                                               int first_tile, int first_step, int lane) {
  const auto* x = reinterpret_cast<const uint4*>(stage + Shape::kWeightBytes) + lane;
  std::uint32_t positions[Shape::kTilesOfRows];
#pragma unroll
  for (int m = 0; m < Shape::kTilesOfRows; ++m) {
    const auto* block = reinterpret_cast<const std::uint32_t*>(stage + (first_tile + m) / 2 * kBlockBytes);
    positions[m] = block[(kValueUnits + lane) * 4 + (first_tile + m) % 2 * 2 + first_step / 2];
    // A single odd step: its positions sit in lanes 2, 3 of a quad, where selector 0 does not look.
    if (Shape::kSteps == 1 && first_step % 2) positions[m] = __shfl_xor_sync(~0u, positions[m], 2);
  }
#pragma unroll
  for (int s = 0; s < Shape::kSteps; ++s) {
    uint4 w[Shape::kTilesOfRows];
#pragma unroll
    for (int m = 0; m < Shape::kTilesOfRows; ++m)
      w[m] = reinterpret_cast<const uint4*>(stage + (first_tile + m) / 2 * kBlockBytes)
          [((first_tile + m) % 2 * 4 + first_step + s) * 32 + lane];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const uint4 operand = x[((first_step + s) * kTiles + t) * 32];
#pragma unroll
      for (int m = 0; m < Shape::kTilesOfRows; ++m)
        if (s % 2 == 0)
          mma_sparse<T, 0>(acc[m][t], w[m], operand, positions[m]);
        else
          mma_sparse<T, 1>(acc[m][t], w[m], operand, positions[m]);
    }
  }
}

// The cluster's blocks and a block's column groups take turns in steps of 16 ranks.
template <typename T, typename Shape, int kTiles>
__device__ __forceinline__ void multiply_low_rank(float (&acc)[Shape::kTilesOfRows][kTiles][4], const ForwardArgs& a,
                                                  int first_row_block, int first_tile, int first, int stride,
                                                  int lane) {
  const int last = blocks(a.d_out, kRowBlock) - 1;
  for (int step = first; step < a.rank_steps; step += stride) {
#pragma unroll
    for (int m = 0; m < Shape::kTilesOfRows; ++m) {
      const int row_block = min(first_row_block + (first_tile + m) / 2, last);
      const uint4 u = __ldg(a.u + (static_cast<std::size_t>(row_block) * a.rank_steps + step) * 64 +
                            (first_tile + m) % 2 * 32 + lane);
      const uint4* from = a.t_operand +
                          (static_cast<std::size_t>(a.first_rank_step(row_block)) + step) * (kTiles * 32) + lane;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint4 operand = load_operand(from + t * 32);
        mma_dense<T>(acc[m][t], u, operand.x, operand.y);
        mma_dense<T>(acc[m][t], u, operand.z, operand.w);
      }
    }
  }
}

// Adds the column groups of all blocks of the cluster; each block stores its share of the rows.
template <typename T, typename Shape>
__device__ __forceinline__ void finish_batch(const ForwardArgs& a, float* sums, int first_row, int split, int splits) {
  constexpr int kThreads = (kBatchWarps + 1) * 32;
  const int share = Shape::kRows / splits;
  float* inbox = sums + Shape::kSumBytes / 4;  // [split][token][share of rows]
  if (splits > 1) cluster_wait();
  for (int e = threadIdx.x; e < Shape::kTokens * Shape::kRows; e += kThreads) {
    const int token = e / Shape::kRows, row = e % Shape::kRows;
    float sum = 0;
#pragma unroll
    for (int g = 0; g < Shape::kColumnGroups; ++g)
      sum += sums[(g * Shape::kTokens + token) * Shape::kStride + row];
    if (splits == 1)
      store_y<T>(a, token, first_row + row, sum);
    else
      store_in_cluster(inbox + (split * Shape::kTokens + token) * share + row % share, row / share, sum);
  }
  if (splits == 1) return;
  cluster_arrive();
  cluster_wait();
  for (int e = threadIdx.x; e < Shape::kTokens * share; e += kThreads) {
    float sum = 0;
    for (int s = 0; s < splits; ++s) sum += inbox[s * Shape::kTokens * share + e];
    store_y<T>(a, e / share, first_row + split * share + e % share, sum);
  }
}

#endif  // SPARLOW_SM90

template <typename T, int kTiles, int kRowBlocks, int kRowGroups, int kStages>
__global__ void __launch_bounds__((kBatchWarps + 1) * 32) batch_kernel(const ForwardArgs a) {
#if SPARLOW_SM90
  using Shape = BatchShape<kTiles, kRowBlocks, kRowGroups, kStages>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Barrier full[kStages], empty[kStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split = blockIdx.x, splits = gridDim.x, first_row_block = blockIdx.y * kRowBlocks;
  const int begin = a.column_blocks * split / splits, count = a.column_blocks * (split + 1) / splits - begin;
  if (threadIdx.x == kBatchWarps * 32) {
    for (int s = 0; s < kStages; ++s) barrier_init(&full[s], 1), barrier_init(&empty[s], kBatchWarps);
    barrier_init_done();
  }
  __syncthreads();
  allow_next_kernel();
  BatchRing<Shape, kStages> ring{shared, full, empty};
  float acc[Shape::kTilesOfRows][kTiles][4] = {};
  const int row_group = warp % kRowGroups, column_group = warp / kRowGroups;
  if (warp == kBatchWarps) {
    if (lane == 0) ring.produce(a, first_row_block, begin, count);
    __syncwarp();
  } else {
    const int first_tile = row_group * Shape::kTilesOfRows, first_step = column_group * Shape::kSteps;
    wait_for_previous_kernel();
    multiply_low_rank<T, Shape, kTiles>(acc, a, first_row_block, first_tile, split * Shape::kColumnGroups + column_group,
                                        splits * Shape::kColumnGroups, lane);
    for (int i = 0; i < count; ++i) {
      barrier_wait(&full[i % kStages], i / kStages % 2);
      multiply_stage<T, Shape, kTiles>(acc, ring.stage(i), first_tile, first_step, lane);
      __syncwarp();
      if (lane == 0) barrier_arrive(&empty[i % kStages]);
    }
  }
  __syncthreads();  // the ring is drained; sums take its place
  if (splits > 1) cluster_arrive();
  float* sums = reinterpret_cast<float*>(shared);
  if (warp < kBatchWarps) {
#pragma unroll
    for (int m = 0; m < Shape::kTilesOfRows; ++m)
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums[(column_group * Shape::kTokens + 8 * t + lane % 4 * 2 + i % 2) * Shape::kStride +
               (row_group * Shape::kTilesOfRows + m) * 16 + lane / 4 + i / 2 * 8] = acc[m][t][i];
  }
  __syncthreads();
  finish_batch<T, Shape>(a, sums, blockIdx.y * Shape::kRows, split, splits);
#endif
}

}  // namespace sparlow::kernels
