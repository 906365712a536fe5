// t = x vᵀ beside the tiles that will need it: by few blocks, each on a multiprocessor of its own, which the tiles
// leave idle or take up when t is done. Bound by what reaches one multiprocessor from L2, x above all.
//
// Two warpgroups multiply, 64 columns in turn: v in registers, x in shared memory; one thread fills the ring. Products
// with an operand in registers hold their warp up, so that what a warp does between them only the other group hides.
// Blocks that share tokens have some of the columns each and add up in a fixed order through each other's shared
// memory.
#pragma once

#include "nm24_launch.cuh"
#include "nm24_many_load.cuh"
#include "nm24_many_store.cuh"

namespace sparlow::kernels {

// kTokens: of a block.
template <int kTokens_>
struct TShape {
  static constexpr int kTokens = kTokens_, kTiles = kTokens / 8, kGroups = 2, kWarps = 4 * kGroups;
  static constexpr int kThreads = (kWarps + 4) * 32;
  static constexpr int kColumns = 64, kSteps = kColumns / kStep, kTileBytes = kSteps * 1024;  // of a stage
  static constexpr int kXBytes = kTokens * 128, kStageBytes = kXBytes + kRankTiles * kTileBytes;
  // A place in the ring belongs to one group: a wait for it could else take the fill before the last for the one meant.
  static constexpr int kStages = 200 * 1024 / kStageBytes / kGroups * kGroups,
                       kSharedBytes = kStages * kStageBytes + 1024;
  static_assert(kStageBytes % 1024 == 0 && kSharedBytes <= 227 * 1024);
  static_assert(kTokens * kInnerStride * 4 <= kStages * kStageBytes);  // sums take the place of the ring
};

struct TArgs {
  ManyInnerArgs inner;
  int splits;  // of the columns
  int x_rows;  // tokens that a block copies: all there are where these are fewer than it has room for
};

struct TMaps {
  CUtensorMap x, v;
};
// tiles: of 16 ranks, of all parts.
template <typename T, typename Shape>
cudaError_t map_t(const TArgs& a, int tiles, TMaps& maps) {
  const cudaError_t status = map_rows<T>(a.inner.x, a.inner.d_in, a.inner.tokens, a.x_rows, maps.x);
  constexpr int kLines = 1024 / 128;  // of a step
  if (status != cudaSuccess) return status;
  return map_lines<T>(a.inner.v, a.inner.steps * kLines, tiles, Shape::kSteps * kLines, kRankTiles, maps.v);
}

#if SPARLOW_SM90

template <typename Shape>
struct TBarriers {
  Barrier full[Shape::kStages], empty[Shape::kStages];
};

template <typename Shape>
struct TRing {
  unsigned char* memory;
  TBarriers<Shape>& barriers;

  __device__ __forceinline__ void init() const {
    for (int s = 0; s < Shape::kStages; ++s)
      barrier_init(&barriers.full[s], 1), barrier_init(&barriers.empty[s], 4 * kWarpArrivals);
    barrier_init_done();
  }
  __device__ __forceinline__ unsigned char* x(int slot) const { return memory + slot * Shape::kStageBytes; }
  __device__ __forceinline__ unsigned char* v(int slot) const { return x(slot) + Shape::kXBytes; }
};

// What a block works on.
struct TWork {
  int split, first_peer;  // among the blocks of its cluster that have the same tokens
  int first, count;       // stages of columns
  int first_token, stage, rank_tile, rank_tiles;
};

template <typename Shape>
__device__ __forceinline__ TWork place_t(const TArgs& a) {
  const int tile = static_cast<int>(blockIdx.x) / a.splits, stages = a.inner.steps / Shape::kSteps;
  TWork work{};
  work.split = static_cast<int>(blockIdx.x) % a.splits;
  work.first_peer = static_cast<int>(cluster_rank()) - work.split;
  work.first = stages * work.split / a.splits;
  work.count = stages * (work.split + 1) / a.splits - work.first;
  // The last tile overlaps the one before, as in nm24_many_work.cuh.
  work.first_token = min(tile * Shape::kTokens, max(a.inner.tokens - Shape::kTokens, 0));
  work.stage = blockIdx.y;
  const int first_rank_step = work.stage % a.inner.stages_per_part * kRankTiles;
  work.rank_tile = work.stage / a.inner.stages_per_part * a.inner.rank_steps + first_rank_step;
  work.rank_tiles = min(a.inner.rank_steps - first_rank_step, kRankTiles);
  return work;
}

// One thread.
template <typename Shape>
__device__ __forceinline__ void fill_t_ring(const TArgs& a, const TMaps& maps, const TRing<Shape>& ring,
                                            const TWork& work) {
  Turn<Shape::kStages> turn{};
  for (int i = work.first; i < work.first + work.count; ++i) {
    Barrier* full = &ring.barriers.full[turn.slot];
    barrier_wait(&ring.barriers.empty[turn.slot], turn.parity ^ 1);
    barrier_expect(full, a.x_rows * 128 + kRankTiles * Shape::kTileBytes);
    tensor_copy(ring.x(turn.slot), &maps.x, i * Shape::kColumns, work.first_token, full);
    tensor_copy_lines(ring.v(turn.slot), &maps.v, i * (Shape::kTileBytes / 128), work.rank_tile, full);
    turn.next();
  }
}

// Lane q of a quad has words 0..3; then it has word q of lanes 0..3.
__device__ __forceinline__ void transpose_quad(std::uint32_t (&words)[4], int lane) {
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & distance) continue;
      const bool upper = lane & distance;
      const std::uint32_t found = __shfl_xor_sync(~0u, upper ? words[i] : words[i + distance], distance);
      if (upper) words[i] = found;
      else words[i + distance] = found;
    }
}

// A lane of packed v has eight neighbouring columns of a step, which suits loads of x by lanes; products of whole
// warpgroups want pairs of columns instead: two operands of 16 columns.
__device__ __forceinline__ void operands_of_step(uint4 (&operands)[2], const uint4 (&halves)[2], int lane) {
  std::uint32_t upper[4] = {halves[0].x, halves[0].z, halves[1].x, halves[1].z};
  std::uint32_t lower[4] = {halves[0].y, halves[0].w, halves[1].y, halves[1].w};
  transpose_quad(upper, lane), transpose_quad(lower, lane);
  operands[0] = make_uint4(upper[0], lower[0], upper[1], lower[1]);
  operands[1] = make_uint4(upper[2], lower[2], upper[3], lower[3]);
}

// A consumer warp: 16 ranks, every other stage.
template <typename T, typename Shape>
struct TConsumer {
  const TRing<Shape>& ring;
  const TWork& work;
  int warp, lane;
  float acc[Shape::kTiles][4] = {};

  __device__ __forceinline__ void stage(int slot) {
    const auto* v = reinterpret_cast<const uint4*>(ring.v(slot) + warp % 4 * Shape::kTileBytes) + lane;
    uint4 operands[Shape::kSteps][2];
#pragma unroll
    for (int s = 0; s < Shape::kSteps; ++s) {
      uint4 halves[2] = {};
      if (warp % 4 < work.rank_tiles) halves[0] = v[s * 64], halves[1] = v[s * 64 + 32];
      operands_of_step(operands[s], halves, lane);
    }
    const std::uint64_t x = swizzled_operand(ring.x(slot));
    pin<Shape::kTiles>(acc);
    warpgroup_fence();
#pragma unroll
    for (int k = 0; k < 2 * Shape::kSteps; ++k) warpgroup_dense<T>(acc, operands[k / 2][k % 2], x + 2 * k);
    warpgroup_commit();
    warpgroup_wait_until<0>();
    pin<Shape::kTiles>(acc);
#pragma unroll
    for (int k = 0; k < 2 * Shape::kSteps; ++k) keep_until_here(operands[k / 2][k % 2]);
  }
  __device__ __forceinline__ void run() {
    Turn<Shape::kStages> turn{};
    for (int i = 0; i < work.count; ++i, turn.next()) {
      if (i % Shape::kGroups != warp / 4) continue;
      barrier_wait(&ring.barriers.full[turn.slot], turn.parity);
      stage(turn.slot);
      barrier_arrive_warp(&ring.barriers.empty[turn.slot], lane);
    }
  }
  // To [token][rank]; the second group adds to what the first stored.
  __device__ __forceinline__ void keep(float* sums) const {
    float* to = sums + lane % 4 * 2 * kInnerStride + warp % 4 * 16 + lane / 4;
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& sum = to[(8 * t + i % 2) * kInnerStride + i / 2 * 8];
        sum = warp < 4 ? acc[t][i] : sum + acc[t][i];
      }
  }
};

template <typename T, typename Shape>
__device__ __forceinline__ void store_t_tile(const TArgs& a, const float* sums, const TWork& work) {
  constexpr int kQuads = kRankStage / 4;
  const int mine = Shape::kTokens / a.splits;
  for (int e = threadIdx.x; e < mine * kQuads; e += Shape::kThreads) {
    const int local = work.split * mine + e / kQuads, token = work.first_token + local;
    if (token >= a.inner.tokens) break;
    const auto* from = reinterpret_cast<const float4*>(sums + local * kInnerStride) + e % kQuads;
    float4 sum{};
    for (int s = 0; s < a.splits; ++s) {
      const float4 part = load_in_cluster(from, work.first_peer + s);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    store_t<T>(a.inner, token, work.stage, e % kQuads * 4, sum);
  }
}

#endif  // SPARLOW_SM90

// Grid: (splits of each tile of tokens, stages of ranks of all parts). Clusters hold the splits of a tile, and two
// blocks at least, so that those who follow find room for clusters of two.
template <typename T, int kTokens>
__global__ void __launch_bounds__(TShape<kTokens>::kThreads, 1)
    many_t_kernel(const TArgs a, const __grid_constant__ TMaps maps) {
#if SPARLOW_SM90
  using Shape = TShape<kTokens>;
  extern __shared__ unsigned char raw[];
  __shared__ TBarriers<Shape> barriers;
  const TRing<Shape> ring{raw + (1024 - shared_address(raw) % 1024) % 1024, barriers};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  wait_for_previous_kernel();
  allow_next_kernel();  // not earlier: who starts then may read what was there before
  const TWork work = place_t<Shape>(a);
  auto* sums = reinterpret_cast<float*>(ring.memory);
  if (warp < Shape::kWarps) {
    more_registers<216>();
    TConsumer<T, Shape> consumer{ring, work, warp, lane};
    consumer.run();
    meet(1, Shape::kWarps * 32);  // the ring is drained; sums take its place
    if (warp < 4) consumer.keep(sums);
    meet(1, Shape::kWarps * 32);
    if (warp >= 4) consumer.keep(sums);
  } else {
    fewer_registers<72>();
    if (warp == Shape::kWarps && lane == 0) fill_t_ring<Shape>(a, maps, ring, work);
  }
  cluster_arrive(), cluster_wait();
  store_t_tile<T, Shape>(a, sums, work);
  cluster_arrive_relaxed(), cluster_wait();  // nobody leaves while its sums are read
#endif
}

}  // namespace sparlow::kernels
