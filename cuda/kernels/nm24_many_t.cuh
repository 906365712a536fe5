// t = x vᵀ by few blocks with much in flight each: for tiles that leave multiprocessors idle, and for very many tokens.
// Bound by reading x, which comes once for all ranks of a part, by tensor copies through a ring; v comes with it and
// stays in L2.
//
// The blocks of a cluster share the columns and add up in a fixed order through each other's shared memory.
#pragma once

#include "nm24_many_load.cuh"

namespace sparlow::kernels {

// A block has kTokens tokens, 32 for each of its warps; warps of the same tokens take turns in steps of 32 columns.
template <int kTokens_, int kStages_>
struct TShape {
  static constexpr int kTokens = kTokens_, kStages = kStages_, kWarps = 8, kThreads = (kWarps + 1) * 32;
  static constexpr int kTokenWarps = kTokens / 32, kSteps = kWarps / kTokenWarps, kColumns = kSteps * kStep;
  static constexpr int kBoxes = kColumns / 64, kBoxBytes = kTokens * 128, kXBytes = kBoxes * kBoxBytes;
  static constexpr int kTileBytes = kSteps * 1024, kVBytes = kRankTiles * kTileBytes;  // of 16 ranks
  static constexpr int kStageBytes = kXBytes + kVBytes, kSharedBytes = kStages * kStageBytes + 1024;
  static constexpr int kSumBytes = kTokens * kInnerStride * 4;
  static_assert(kBoxBytes % 1024 == 0 && kColumns <= kColumnBlock && kSumBytes <= kStages * kStageBytes);
};

struct TArgs {
  ManyInnerArgs inner;
  int x_rows;  // tokens that a block copies: all there are where these are fewer than it has room for
};

#if SPARLOW_SM90

template <typename Shape>
struct TBarriers {
  Barrier full[Shape::kStages], empty[Shape::kStages];
};

// What a block works on.
struct TWork {
  int first, count;  // stages of columns
  int first_token, stage, rank_tile, rank_tiles;
};

template <typename Shape>
__device__ __forceinline__ void fill_t_ring(const TArgs& a, const CUtensorMap* x_map, unsigned char* ring,
                                            TBarriers<Shape>& barriers, const TWork& work) {
  Turn<Shape::kStages> turn{};
  for (int i = 0; i < work.count; ++i) {
    unsigned char* stage = ring + turn.slot * Shape::kStageBytes;
    Barrier* full = &barriers.full[turn.slot];
    barrier_wait(&barriers.empty[turn.slot], turn.parity ^ 1);
    barrier_expect(full, Shape::kBoxes * a.x_rows * 128 + work.rank_tiles * Shape::kTileBytes);
    for (int box = 0; box < Shape::kBoxes; ++box)
      tensor_copy(stage + box * Shape::kBoxBytes, x_map, (work.first + i) * Shape::kColumns + 64 * box,
                  work.first_token, full);
    for (int r = 0; r < work.rank_tiles; ++r)
      bulk_copy(
          stage + Shape::kXBytes + r * Shape::kTileBytes,
          a.inner.v +
              (static_cast<std::size_t>(work.rank_tile + r) * a.inner.steps + (work.first + i) * Shape::kSteps) * 64,
          Shape::kTileBytes, full);
    turn.next();
  }
}

// Lane 4 g + q multiplies row g / 2 + 4 (g % 2) of eight, so that the rows of a quarter of a warp lie in other banks.
template <typename T, typename Shape>
__device__ __forceinline__ void multiply_t_ring(float (&acc)[kRankTiles][4][4], const unsigned char* ring,
                                                TBarriers<Shape>& barriers, const TWork& work, int warp, int lane) {
  const int token_warp = warp % Shape::kTokenWarps, step = warp / Shape::kTokenWarps;
  const int row = lane / 8 + lane / 4 % 2 * 4, chunk = (step % 2 * 4 + lane % 4) ^ row;
  const int x_at = step / 2 * Shape::kBoxBytes + (token_warp * 32 + row) * 128 + chunk * 16;
  Turn<Shape::kStages> turn{};
  for (int i = 0; i < work.count; ++i) {
    const unsigned char* stage = ring + turn.slot * Shape::kStageBytes;
    barrier_wait(&barriers.full[turn.slot], turn.parity);
    uint4 x[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) x[t] = *reinterpret_cast<const uint4*>(stage + x_at + t * 1024);
#pragma unroll
    for (int r = 0; r < kRankTiles; ++r) {
      if (r >= work.rank_tiles) break;
      const auto* v = reinterpret_cast<const uint4*>(stage + Shape::kXBytes + r * Shape::kTileBytes) + step * 64 + lane;
      const uint4 first = v[0], second = v[32];
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        mma_dense<T>(acc[r][t], first, x[t].x, x[t].y);
        mma_dense<T>(acc[r][t], second, x[t].z, x[t].w);
      }
    }
    barrier_arrive_warp(&barriers.empty[turn.slot], lane);
    turn.next();
  }
}

// [token][rank]; the warps of one step store, those of the others add.
template <typename Shape>
__device__ __forceinline__ void add_steps(float* sums, const float (&acc)[kRankTiles][4][4], int warp, int lane) {
  for (int step = 0; step < Shape::kSteps; ++step) {
    if (warp < Shape::kWarps && warp / Shape::kTokenWarps == step)
#pragma unroll
      for (int r = 0; r < kRankTiles; ++r)
#pragma unroll
        for (int t = 0; t < 4; ++t)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int token = warp % Shape::kTokenWarps * 32 + 8 * t + lane % 4 + i % 2 * 4;
            float* to = sums + token * kInnerStride + r * 16 + lane / 4 + i / 2 * 8;
            *to = step == 0 ? acc[r][t][i] : *to + acc[r][t][i];
          }
    __syncthreads();
  }
}

template <typename T, typename Shape>
__device__ __forceinline__ void store_t_tile(const ManyInnerArgs& a, const float* sums, const TWork& work) {
  const int splits = gridDim.x, mine = Shape::kTokens / splits;
  constexpr int kQuads = kRankStage / 4;
  for (int e = threadIdx.x; e < mine * kQuads; e += Shape::kThreads) {
    const int local = static_cast<int>(blockIdx.x) * mine + e / kQuads, token = work.first_token + local;
    if (token >= a.tokens) break;
    const auto* from = reinterpret_cast<const float4*>(sums + local * kInnerStride) + e % kQuads;
    float4 sum{};
    for (int s = 0; s < splits; ++s) {
      const float4 part = load_in_cluster(from, s);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    store_t<T>(a, token, work.stage, e % kQuads * 4, sum);
  }
}

#endif  // SPARLOW_SM90

// Grid: (1, 2, 4 or 8 splits, tiles of tokens, stages of ranks of all parts), clusters along the first.
template <typename T, int kTokens, int kStages>
__global__ void __launch_bounds__(288, 1) many_t_kernel(const TArgs a, const __grid_constant__ CUtensorMap x_map) {
#if SPARLOW_SM90
  using Shape = TShape<kTokens, kStages>;
  extern __shared__ unsigned char raw[];
  __shared__ TBarriers<Shape> barriers;
  unsigned char* ring = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, splits = gridDim.x;
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s)
      barrier_init(&barriers.full[s], 1), barrier_init(&barriers.empty[s], Shape::kWarps * kWarpArrivals);
    barrier_init_done();
  }
  __syncthreads();
  wait_for_previous_kernel();
  allow_next_kernel();  // not earlier: who starts then may read what was there before
  const int stages = a.inner.steps / Shape::kSteps, split = blockIdx.x;
  TWork work{};
  work.stage = blockIdx.z, work.first = stages * split / splits;
  work.count = stages * (split + 1) / splits - work.first;
  const int first_rank_step = work.stage % a.inner.stages_per_part * kRankTiles;
  work.rank_tile = work.stage / a.inner.stages_per_part * a.inner.rank_steps + first_rank_step;
  work.rank_tiles = min(a.inner.rank_steps - first_rank_step, kRankTiles);
  // The last tile overlaps the one before, as in nm24_many.cuh.
  work.first_token = min(static_cast<int>(blockIdx.y) * kTokens, max(a.inner.tokens - kTokens, 0));
  float acc[kRankTiles][4][4] = {};
  if (warp < Shape::kWarps) multiply_t_ring<T, Shape>(acc, ring, barriers, work, warp, lane);
  else if (lane == 0) fill_t_ring<Shape>(a, &x_map, ring, barriers, work);
  __syncthreads();  // the ring is drained; sums take its place
  auto* sums = reinterpret_cast<float*>(ring);
  add_steps<Shape>(sums, acc, warp, lane);
  if (splits > 1) cluster_arrive(), cluster_wait();
  store_t_tile<T, Shape>(a.inner, sums, work);
  if (splits > 1) cluster_arrive_relaxed(), cluster_wait();  // nobody leaves while its sums are read
#endif
}

}  // namespace sparlow::kernels
