// t = x vᵀ beside the tiles that will need it: by few blocks, each on a multiprocessor of its own, which the tiles
// leave idle or take up when t is done. Bound by what reaches one multiprocessor from L2, x above all.
//
// One warpgroup multiplies 64 ranks with 64 columns of x at a time, both in shared memory; one thread fills the ring.
// Blocks that share tokens have some of the columns each and add up in a fixed order through each other's shared
// memory.
#pragma once

#include "nm24_launch.cuh"
#include "nm24_many_load.cuh"
#include "nm24_many_store.cuh"
#include "nm24_warpgroup_many.cuh"

namespace sparlow::kernels {

// kTokens: of a block.
template <int kTokens_>
struct TShape {
  static constexpr int kTokens = kTokens_, kTiles = kTokens / 8;
  static constexpr int kWarps = 4, kThreads = 384;                  // that multiply; all of them store
  static constexpr int kColumns = 64, kChunks = kColumns / kChunk;  // of a stage
  static constexpr int kXBytes = kTokens * 128, kStageBytes = kXBytes + kRankStage * kColumns * 2;
  static constexpr int kStages = 200 * 1024 / kStageBytes, kSharedBytes = kStages * kStageBytes + 1024;
  static_assert(kStageBytes % 1024 == 0 && kSharedBytes <= 227 * 1024);
  static_assert(kTokens * kInnerStride * 4 <= kStages * kStageBytes);  // sums take the place of the ring
};

struct TArgs {
  ManyInnerArgs inner;
  int splits;   // of the columns
  int x_rows;   // tokens that a block copies: all there are where these are fewer than it has room for
  int tiles;    // of 16 ranks, of all parts
  int v_tiles;  // that a block copies: kRankTiles, or all there are
};

struct TMaps {
  CUtensorMap x, v;
};
// v: all ranks of eight columns, then those of the next eight.
template <typename T, typename Shape>
cudaError_t map_t(const TArgs& a, TMaps& maps) {
  const cudaError_t status = map_rows<T>(a.inner.x, a.inner.d_in, a.inner.tokens, a.x_rows, maps.x);
  constexpr int kElements = kRankBlock * kChunk;
  const auto chunks = static_cast<cuuint64_t>(v_chunks(a.inner.d_in));
  if (status != cudaSuccess) return status;
  return map_boxes<T>({a.inner.v,
                       3,
                       {kElements, static_cast<cuuint64_t>(a.tiles), chunks},
                       {chunks * kElements * 2, kElements * 2},
                       {kElements, static_cast<cuuint32_t>(a.v_tiles), Shape::kChunks},
                       CU_TENSOR_MAP_SWIZZLE_NONE},
                      maps.v);
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
      barrier_init(&barriers.full[s], 1), barrier_init(&barriers.empty[s], Shape::kWarps);
    barrier_init_done();
  }
  __device__ __forceinline__ unsigned char* x(int slot) const { return memory + slot * Shape::kStageBytes; }
  __device__ __forceinline__ unsigned char* v(int slot) const { return x(slot) + Shape::kXBytes; }
};

// What a block works on.
struct TWork {
  int split, first_peer;  // among the blocks of its cluster that have the same tokens
  int first, count;       // stages of columns
  int first_token, stage;
  int copied_tile;            // the first tile of ranks that is copied,
  int rank_tile, rank_tiles;  // and of those copied the ones that are wanted
};

template <typename Shape>
__device__ __forceinline__ TWork place_t(const TArgs& a) {
  const int tile = static_cast<int>(blockIdx.x) / a.splits, stages = blocks(a.inner.d_in, Shape::kColumns);
  TWork work{};
  work.split = static_cast<int>(blockIdx.x) % a.splits;
  work.first_peer = static_cast<int>(cluster_rank()) - work.split;
  work.first = stages * work.split / a.splits;
  work.count = stages * (work.split + 1) / a.splits - work.first;
  // The last tile overlaps the one before, as in nm24_many_work.cuh; tiles of ranks likewise.
  work.first_token = min(tile * Shape::kTokens, max(a.inner.tokens - Shape::kTokens, 0));
  work.stage = blockIdx.y;
  const int first_rank_step = work.stage % a.inner.stages_per_part * kRankTiles;
  const int wanted = work.stage / a.inner.stages_per_part * a.inner.rank_steps + first_rank_step;
  work.copied_tile = min(wanted, a.tiles - a.v_tiles);
  work.rank_tile = wanted - work.copied_tile;
  work.rank_tiles = min(a.inner.rank_steps - first_rank_step, kRankTiles);
  return work;
}

// One thread.
template <typename Shape>
__device__ __forceinline__ void fill_t_ring(const TArgs& a, const TMaps& maps, const TRing<Shape>& ring,
                                            const TWork& work) {
  const unsigned bytes = a.x_rows * 128 + a.v_tiles * kRankBlock * 128;
  Turn<Shape::kStages> turn{};
  for (int i = work.first; i < work.first + work.count; ++i) {
    Barrier* full = &ring.barriers.full[turn.slot];
    barrier_wait(&ring.barriers.empty[turn.slot], turn.parity ^ 1);
    barrier_expect(full, bytes);
    tensor_copy(ring.x(turn.slot), &maps.x, i * Shape::kColumns, work.first_token, full);
    tensor_copy_lines(ring.v(turn.slot), &maps.v, work.copied_tile, i * Shape::kChunks, full);
    turn.next();
  }
}

// A warp of those that multiply: 16 ranks. Sums of ranks that were not copied are of anything; they go nowhere.
template <typename T, typename Shape>
struct TConsumer {
  const TRing<Shape>& ring;
  unsigned chunk_bytes;  // of v in a stage
  int warp, lane;
  std::uint64_t v = blocked_operand(ring.v(0), chunk_bytes), x = swizzled_operand(ring.x(0));
  float acc[Shape::kTiles][4] = {};

  __device__ __forceinline__ void start(int slot) {
    const unsigned stage = slot * (Shape::kStageBytes / 16);
    pin<Shape::kTiles>(acc);
    warpgroup_fence();
#pragma unroll
    for (int k = 0; k < Shape::kChunks / 2; ++k)
      warpgroup_dense<T>(acc, operand_after(v, stage + k * (chunk_bytes / 8)), operand_after(x, stage + 2 * k));
    warpgroup_commit();
  }
  // A stage is given back once the products of the next one are under way.
  __device__ __forceinline__ void run(int count) {
    Turn<Shape::kStages> turn{}, done{};
    for (int i = 0; i < count; ++i, turn.next()) {
      barrier_wait(&ring.barriers.full[turn.slot], turn.parity);
      start(turn.slot);
      warpgroup_wait_until<1>();
      pin<Shape::kTiles>(acc);
      if (i == 0) continue;
      if (lane == 0) barrier_arrive(&ring.barriers.empty[done.slot]);
      done.next();
    }
    warpgroup_wait_until<0>();
    pin<Shape::kTiles>(acc);
  }
  // To [token][rank].
  __device__ __forceinline__ void keep(float* sums) const {
    float* to = sums + lane % 4 * 2 * kInnerStride + warp * 16 + lane / 4;
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) to[(8 * t + i % 2) * kInnerStride + i / 2 * 8] = acc[t][i];
  }
};

// A block's share of its tokens. Ranks past those of the part are zero: in shared memory there may be ranks of the next
// part or nothing at all, and zeros of u would not stop what is not finite.
template <typename T, typename Shape>
__device__ __forceinline__ void store_t_tile(const TArgs& a, const float* sums, const TWork& work) {
  constexpr int kQuads = kRankStage / 4, kAtOnce = 4, kTokensAtOnce = Shape::kThreads / kQuads;
  static_assert(Shape::kThreads % kQuads == 0);
  const int share = Shape::kTokens / a.splits, begin = work.split * share;
  const int end = min(begin + share, a.inner.tokens - work.first_token);
  const int rank = static_cast<int>(threadIdx.x) % kQuads * 4;
  const bool wanted = rank < work.rank_tiles * kRankBlock;
  const float* mine = sums + (wanted ? work.rank_tile * kRankBlock + rank : 0);
  for (int first = begin + threadIdx.x / kQuads; first < end; first += kAtOnce * kTokensAtOnce) {
    float4 sum[kAtOnce] = {};
#pragma unroll 4
    for (int s = 0; s < a.splits; ++s)
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int token = min(first + i * kTokensAtOnce, end - 1);
        const auto* from = reinterpret_cast<const float4*>(mine + token * kInnerStride);
        const float4 part = load_in_cluster(from, work.first_peer + s);
        sum[i].x += part.x, sum[i].y += part.y, sum[i].z += part.z, sum[i].w += part.w;
      }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int token = first + i * kTokensAtOnce;
      if (token >= end) break;
      store_t<T>(a.inner, work.first_token + token, work.stage, rank, wanted ? sum[i] : float4{});
    }
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
    TConsumer<T, Shape> consumer{ring, a.v_tiles * kRankBlock * kChunk * 2u, warp, lane};
    consumer.run(work.count);
    meet(1, Shape::kWarps * 32);  // the ring is drained; sums take its place
    consumer.keep(sums);
  } else if (warp == Shape::kWarps && lane == 0) {
    fill_t_ring<Shape>(a, maps, ring, work);
  }
  cluster_arrive(), cluster_wait();
  store_t_tile<T, Shape>(a, sums, work);
  cluster_arrive_relaxed(), cluster_wait();  // nobody leaves while its sums are read
#endif
}

}  // namespace sparlow::kernels
