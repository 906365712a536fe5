// Second kernel of a forward pass for many tokens (sm_90a): as decode, but x weighs as much as a block's weights, so the
// warps of a block share both through one ring that a producer thread fills, and products run by warpgroup.
//
// A block has 64 rows per consumer warpgroup. One ring stage is 128 columns: of x, then of the weights. The low-rank
// term goes through the same ring: a stage of 64 ranks has t in place of x and u in place of the weights. Blocks of a
// cluster split the stages and add up in a fixed order.
#pragma once

#include "nm24_args.cuh"
#include "nm24_decode.cuh"
#include "nm24_warpgroup.cuh"

namespace sparlow::kernels {

constexpr int kStageRankSteps = 4;

template <int kTiles_, int kGroups_, int kStages_>
struct WideShape {
  static constexpr int kTiles = kTiles_, kGroups = kGroups_, kStages = kStages_;
  static constexpr int kWarps = 4 * kGroups, kThreads = (kWarps + 2) * 32;  // one fills the ring, one fetches t
  static constexpr int kRows = 64 * kGroups, kRowBlocks = kRows / kRowBlock, kTokens = 8 * kTiles;
  static constexpr int kInnerTiles = kTiles < 4 ? kTiles : 4;
  static constexpr int kHalfXBytes = kTokens * 128, kXBytes = 2 * kHalfXBytes;
  static constexpr int kWeightBytes = kRowBlocks * kBlockBytes, kStageBytes = kXBytes + kWeightBytes;
  static constexpr int kStride = kRows + 4;
  static constexpr int kSumBytes = kTokens * kStride * 4, kInboxBytes = kTokens * kRows * 4;
  static constexpr int kRingBytes =
      kStages * kStageBytes > kSumBytes + kInboxBytes ? kStages * kStageBytes : kSumBytes + kInboxBytes;
  static constexpr int kSharedBytes = kRingBytes + 1024;  // the swizzle wants the ring at a multiple of 1024
  static constexpr int kBlocksPerSm = kSharedBytes <= 113 * 1024 ? 2 : 1;
  static_assert(kStageRankSteps * kTiles * 512 <= kXBytes && kStageRankSteps * 1024 <= kBlockBytes);
};

// A block's share of the stages: columns, then ranks.
struct WideWork {
  int first, count;   // stages
  int columns;        // how many of them are columns; the others are ranks
  int column_blocks;
  int token_group, first_row_block;
};

#if SPARLOW_SM90

template <typename Shape>
struct WideRing {
  unsigned char* memory;
  Barrier *full, *empty;

  __device__ __forceinline__ unsigned char* stage(int i) const {
    return memory + i % Shape::kStages * Shape::kStageBytes;
  }
  __device__ __forceinline__ void wait_full(int i) const {
    barrier_wait(&full[i % Shape::kStages], i / Shape::kStages % 2);
  }
  __device__ __forceinline__ void wait_empty(int i) const {
    if (i >= Shape::kStages) barrier_wait(&empty[i % Shape::kStages], (i / Shape::kStages - 1) % 2);
  }
};

// The producer: one thread.
template <typename Shape>
struct WideProducer {
  const ForwardArgs& a;
  const CUtensorMap* x_map;
  const WideRing<Shape>& ring;
  const WideWork& work;
  std::uint64_t policy = evict_first();
  int last_row_block = blocks(a.d_out, kRowBlock) - 1;

  // Rows past the end are read again and not stored.
  __device__ __forceinline__ int row_block(int r) const { return min(work.first_row_block + r, last_row_block); }

  __device__ __forceinline__ void copy_weights(int i) const {
    Barrier* full = &ring.full[i % Shape::kStages];
    barrier_expect(full, Shape::kStageBytes);
    for (int r = 0; r < Shape::kRowBlocks; ++r)
      bulk_copy(ring.stage(i) + Shape::kXBytes + r * kBlockBytes,
                a.weights + (static_cast<std::size_t>(row_block(r)) * a.column_blocks + work.first + i) * kBlockUnits,
                kBlockBytes, full, policy);
  }
  __device__ __forceinline__ void copy_x(int i) const {
    for (int half = 0; half < 2; ++half)
      tensor_copy(ring.stage(i) + half * Shape::kHalfXBytes, x_map, (work.first + i) * kColumnBlock + 64 * half,
                  work.token_group * Shape::kTokens, &ring.full[i % Shape::kStages]);
    barrier_arrive(&ring.full[i % Shape::kStages]);  // in place of t's messenger
  }
  // A stage of ranks: u. WideMessenger brings t.
  __device__ __forceinline__ void copy_u(int i) const {
    Barrier* full = &ring.full[i % Shape::kStages];
    const int first_step = (work.first + i - work.column_blocks) * kStageRankSteps;
    const int steps = min(a.rank_steps - first_step, kStageRankSteps);
    barrier_expect(full, steps * Shape::kRowBlocks * 1024);
    for (int r = 0; r < Shape::kRowBlocks; ++r)
      bulk_copy(ring.stage(i) + Shape::kXBytes + r * kBlockBytes,
                a.u + (static_cast<std::size_t>(row_block(r)) * a.rank_steps + first_step) * 64, steps * 1024, full,
                policy);
  }
  __device__ __forceinline__ void run() const {
    const int early = min(work.columns, Shape::kStages);
    for (int i = 0; i < early; ++i) copy_weights(i);
    wait_for_previous_kernel();
    for (int i = 0; i < early; ++i) copy_x(i);
    for (int i = early; i < work.count; ++i) {
      ring.wait_empty(i);
      if (i < work.columns)
        copy_weights(i), copy_x(i);
      else
        copy_u(i);
    }
  }
};

// One warp that carries t from the mailboxes into the ring's stages of ranks. Answers what finish_with_t did.
template <typename Shape>
__device__ __forceinline__ unsigned carry_t(const ForwardArgs& a, const WideRing<Shape>& ring, const WideWork& work,
                                            unsigned stamp, int lane) {
  for (int i = work.columns; i < work.count; ++i) {
    const int first_step = (work.first + i - work.column_blocks) * kStageRankSteps;
    const int units = min(a.rank_steps - first_step, kStageRankSteps) * Shape::kTiles;
    const Mailbox* box =
        a.sums_of(work.token_group, a.part_of(work.first_row_block) * a.rank_steps + first_step) + lane;
    ring.wait_empty(i);
    auto* to = reinterpret_cast<uint4*>(ring.stage(i)) + lane;
    for (int unit = 0; unit < units; unit += 4) {  // of steps and tiles
      uint2 found[8];
      for (bool all = false; !all;) {
        all = true;
#pragma unroll
        for (int k = 0; k < 8; ++k)
          if (unit + k / 2 < units) all = take(found[k], box + (unit + k / 2) * 64 + k % 2 * 32, stamp) && all;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (unit + k < units)
          to[(unit + k) * 32] = make_uint4(found[2 * k].x, found[2 * k].y, found[2 * k + 1].x, found[2 * k + 1].y);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(&ring.full[i % Shape::kStages]);
  }
  return lane == 0 && a.rank_steps ? finish_with_t(a) : ~0u;
}

// This warp's 16 rows of a stage of columns. Products of all four warps of a warpgroup run together.
template <typename T, typename Shape>
__device__ __forceinline__ void multiply_columns(float (&acc)[Shape::kTiles][4], const unsigned char* stage, int tile,
                                                 int lane) {
  const auto* w = reinterpret_cast<const uint4*>(stage + Shape::kXBytes + tile / 2 * kBlockBytes) + lane;
  const uint2 positions = reinterpret_cast<const uint2*>(w + kValueUnits)[tile % 2];
  uint4 values[4];
#pragma unroll
  for (int s = 0; s < 4; ++s) values[s] = w[(tile % 2 * 4 + s) * 32];
  const std::uint64_t x = swizzled_operand(stage);
  pin<Shape::kTiles>(acc);
  warpgroup_fence();
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const std::uint64_t operand = x + (s / 2 * Shape::kHalfXBytes + s % 2 * 64) / 16;
    if (s % 2 == 0)
      warpgroup_sparse<T, 0>(acc, values[s], operand, s < 2 ? positions.x : positions.y);
    else
      warpgroup_sparse<T, 1>(acc, values[s], operand, s < 2 ? positions.x : positions.y);
  }
  warpgroup_commit();
  warpgroup_wait();
  pin<Shape::kTiles>(acc);
}

template <typename T, typename Shape>
__device__ __forceinline__ void multiply_rank_stage(float (&acc)[Shape::kTiles][4], const unsigned char* stage, int tile,
                                               int steps, int lane) {
  const auto* u = reinterpret_cast<const uint4*>(stage + Shape::kXBytes + tile / 2 * kBlockBytes) + lane;
  const auto* t_operand = reinterpret_cast<const uint4*>(stage) + lane;
  for (int s = 0; s < steps; ++s) {
    const uint4 rows = u[(2 * s + tile % 2) * 32];
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t) {
      const uint4 operand = t_operand[(s * Shape::kTiles + t) * 32];
      mma_dense<T>(acc[t], rows, operand.x, operand.y);
      mma_dense<T>(acc[t], rows, operand.z, operand.w);
    }
  }
}

// Four rows of y.
template <typename T>
__device__ __forceinline__ void store_four(const ForwardArgs& a, int token, int row, float4 sum) {
  if (a.d_out % 4 || row >= a.d_out) {
    store_y<T>(a, token, row, sum.x), store_y<T>(a, token, row + 1, sum.y);
    store_y<T>(a, token, row + 2, sum.z), store_y<T>(a, token, row + 3, sum.w);
    return;
  }
  if (a.bias) {
    const auto* bias = static_cast<const T*>(a.bias) + row;
    sum.x += to_float(bias[0]), sum.y += to_float(bias[1]), sum.z += to_float(bias[2]), sum.w += to_float(bias[3]);
  }
  const uint2 out = make_uint2(pack(from_float<T>(sum.x), from_float<T>(sum.y)),
                               pack(from_float<T>(sum.z), from_float<T>(sum.w)));
  *reinterpret_cast<uint2*>(static_cast<T*>(a.y) + static_cast<std::size_t>(token) * a.d_out + row) = out;
}

__device__ __forceinline__ void add(float4& a, const float4& b) { a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w; }

// Adds up the blocks of the cluster (1 << split_bits of them); each stores its share of the rows.
template <typename T, typename Shape>
__device__ __forceinline__ void finish_wide(const ForwardArgs& a, float* sums, int first_token, int tokens,
                                            int first_row, int split, int split_bits) {
  constexpr int kQuads = Shape::kRows / 4;
  const int share_bits = 31 - __clz(kQuads) - split_bits, share = 1 << share_bits;
  auto* inbox = reinterpret_cast<float4*>(sums + Shape::kSumBytes / 4);  // [split][token][quad of the share]
  if (split_bits) cluster_wait();  // the others' rings are drained
#pragma unroll 1
  for (int e = threadIdx.x; e < tokens * kQuads; e += Shape::kThreads) {
    const int token = e / kQuads, quad = e % kQuads;
    const float4 sum = *reinterpret_cast<const float4*>(sums + token * Shape::kStride + 4 * quad);
    if (split_bits)
      store_in_cluster(inbox + (((split * Shape::kTokens + token) << share_bits) | (quad & (share - 1))),
                       quad >> share_bits, sum);
    else
      store_four<T>(a, first_token + token, first_row + 4 * quad, sum);
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

#endif  // SPARLOW_SM90

// Grid: first_block, then splits x groups of row blocks x groups of 8 kTiles tokens. Splits: 1, 2, 4 or 8, a cluster.
// A block's rows are of one part.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerSm)
    wide_kernel(const ForwardArgs a, const __grid_constant__ CUtensorMap x_map) {
#if SPARLOW_SM90
  extern __shared__ unsigned char raw[];
  __shared__ Barrier full[Shape::kStages], empty[Shape::kStages];
  unsigned char* shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  allow_next_kernel();
  if (static_cast<int>(blockIdx.x) < a.first_block) {
    inner_block<T, Shape::kInnerTiles, Shape::kWarps, true>(a, blockIdx.x, shared);
    return;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split_bits = 31 - __clz(a.splits), index = blockIdx.x - a.first_block, split = index & (a.splits - 1);
  const int tiles = blocks(a.d_out, Shape::kRows), tile = (index >> split_bits) % tiles;
  const int group = (index >> split_bits) / tiles;
  const int stages = a.column_blocks + blocks(a.rank_steps, kStageRankSteps), first = (stages * split) >> split_bits;
  const int count = ((stages * (split + 1)) >> split_bits) - first;
  const WideWork work{first, count, min(count, max(a.column_blocks - first, 0)), a.column_blocks, group,
                      tile * Shape::kRowBlocks};
  if (threadIdx.x == Shape::kWarps * 32) {
    for (int s = 0; s < Shape::kStages; ++s) barrier_init(&full[s], 2), barrier_init(&empty[s], Shape::kWarps);
    barrier_init_done();
  }
  __syncthreads();
  const WideRing<Shape> ring{shared, full, empty};
  float acc[Shape::kTiles][4] = {};
  unsigned finished = ~0u, stamp = 0;
  if (warp == Shape::kWarps) {
    if (lane == 0) WideProducer<Shape>{a, &x_map, ring, work}.run();
    __syncwarp();
  } else if (warp > Shape::kWarps) {
    wait_for_previous_kernel();
    stamp = stamp_of(a);
    finished = carry_t<Shape>(a, ring, work, stamp, lane);
  } else {
    for (int i = 0; i < work.count; ++i) {
      ring.wait_full(i);
      if (i < work.columns)
        multiply_columns<T, Shape>(acc, ring.stage(i), warp, lane);
      else
        multiply_rank_stage<T, Shape>(acc, ring.stage(i), warp,
                                      min(a.rank_steps - (work.first + i - work.column_blocks) * kStageRankSteps,
                                          kStageRankSteps),
                                      lane);
      __syncwarp();
      if (lane == 0) barrier_arrive(&ring.empty[i % Shape::kStages]);
    }
  }
  __syncthreads();  // the ring is drained; sums take its place
  if (a.splits > 1) cluster_arrive();
  float* sums = reinterpret_cast<float*>(shared);
  if (warp < Shape::kWarps) {
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(8 * t + lane % 4 * 2 + i % 2) * Shape::kStride + warp * 16 + lane / 4 + i / 2 * 8] = acc[t][i];
  }
  __syncthreads();
  finish_wide<T, Shape>(a, sums, group * Shape::kTokens, min(a.tokens - group * Shape::kTokens, Shape::kTokens),
                        tile * Shape::kRows, split, split_bits);
  if (finished != ~0u) end_launch(a, finished, stamp);
#endif
}

}  // namespace sparlow::kernels
