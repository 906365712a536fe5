// y = x sᵀ + t uᵀ + bias for many tokens (sm_90a), bound by the matrix units: a block has 128 rows of y for 128 or 256
// tokens. t = x vᵀ comes from the kernel before (nm24_many_inner.cuh).
//
// Two warpgroups multiply, 64 rows each, with weights in registers and x in shared memory; one thread fills both rings.
#pragma once

#include "nm24_many_load.cuh"
#include "nm24_store.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// A consumer warp.
template <typename T, typename Shape>
struct ManyConsumer {
  const ManyRings<Shape>& rings;
  int warp, lane;
  float acc[Shape::kTiles][4] = {};
  Turn<Shape::kXStages> x_turn{}, done_turn{};
  Turn<Shape::kWeightStages> weights_turn{};

  __device__ __forceinline__ const uint4* acquire_weights() {
    barrier_wait(&rings.barriers.weights_full[weights_turn.slot], weights_turn.parity);
    return reinterpret_cast<const uint4*>(rings.weights(weights_turn.slot) + warp / 2 * kBlockBytes) + lane;
  }
  __device__ __forceinline__ void release_weights() {
    barrier_arrive_warp(&rings.barriers.weights_empty[weights_turn.slot], lane);
    weights_turn.next();
  }
  __device__ __forceinline__ std::uint64_t acquire_x() {
    barrier_wait(&rings.barriers.x_full[x_turn.slot], x_turn.parity);
    const std::uint64_t operand = swizzled_operand(rings.x(x_turn.slot));
    x_turn.next();
    return operand;
  }
  __device__ __forceinline__ void release_x() {
    Barrier* empty = &rings.barriers.x_empty[done_turn.slot];
    if constexpr (Shape::kCluster == 1) {
      if (lane == 0) barrier_arrive(empty);
    } else if (lane < Shape::kCluster) {
      barrier_arrive_in_cluster(empty, lane);
    }
    done_turn.next();
  }
  // Products run on while the next weights are read: at most one group is behind.
  __device__ __forceinline__ void half(const uint4& first, const uint4& second, std::uint32_t positions, bool started) {
    const std::uint64_t x = acquire_x();
    pin<Shape::kTiles>(acc);
    warpgroup_fence();
    warpgroup_sparse<T, 0>(acc, first, x, positions);
    warpgroup_sparse<T, 1>(acc, second, x + 4, positions);
    warpgroup_commit();
    warpgroup_wait_until<1>();
    pin<Shape::kTiles>(acc);
    if (started) release_x();
  }
  __device__ __forceinline__ void block(uint4 (&values)[4], bool started) {
    const uint4* w = acquire_weights();
    const uint2 positions = reinterpret_cast<const uint2*>(w + kValueUnits)[warp % 2];
#pragma unroll
    for (int s = 0; s < 4; ++s) values[s] = w[(warp % 2 * 4 + s) * 32];
    release_weights();
    half(values[0], values[1], positions.x, started);
    half(values[2], values[3], positions.y, true);
  }
  __device__ __forceinline__ void columns(int count) {
    if (count == 0) return;
    uint4 even[4], odd[4];  // the products still running read the other one
    int i = 0;
    for (; i + 1 < count; i += 2) block(even, i > 0), block(odd, true);
    if (i < count) block(even, i > 0);
    finish_columns();
  }
  __device__ __forceinline__ void finish_columns() {
    warpgroup_wait_until<0>();
    pin<Shape::kTiles>(acc);
    release_x();
  }
  __device__ __forceinline__ void ranks(int steps) {
    constexpr int kSteps = kRankStage / kRankBlock;
    for (int first = 0; first < steps; first += kSteps) {
      const uint4* u = acquire_weights() + warp % 2 * 32;
      uint4 rows[kSteps];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) rows[s] = first + s < steps ? u[2 * s * 32] : make_uint4(0, 0, 0, 0);
      release_weights();
      const std::uint64_t t = acquire_x();
      pin<Shape::kTiles>(acc);
      warpgroup_fence();
#pragma unroll
      for (int s = 0; s < kSteps; ++s) warpgroup_dense<T>(acc, rows[s], t + 2 * s);
      warpgroup_commit();
      warpgroup_wait_until<0>();
      pin<Shape::kTiles>(acc);
      release_x();
    }
  }
};

// Sums to 16 bits in shared memory, [token][64 rows], pieces of 16 bytes swapped so that banks differ.
template <typename T, typename Shape>
__device__ __forceinline__ void stage_sums(unsigned char* shared, const float (&acc)[Shape::kTiles][4],
                                           const ManyArgs& a, int first_row, int warp, int lane) {
  float bias[2] = {};
  if (a.bias)
    for (int i = 0; i < 2; ++i) {
      const int row = first_row + warp % 4 * 16 + lane / 4 + 8 * i;
      bias[i] = row < a.d_out ? to_float(static_cast<const T*>(a.bias)[row]) : 0.f;
    }
#pragma unroll
  for (int t = 0; t < Shape::kTiles; t += 2) {
    const int token = 8 * (t + lane / 16) + lane % 8, piece = warp % 4 * 2 + lane / 8 % 2;
    uint4 out;
    out.x = pack(from_float<T>(acc[t][0] + bias[0]), from_float<T>(acc[t][1] + bias[0]));
    out.y = pack(from_float<T>(acc[t][2] + bias[1]), from_float<T>(acc[t][3] + bias[1]));
    out.z = pack(from_float<T>(acc[t + 1][0] + bias[0]), from_float<T>(acc[t + 1][1] + bias[0]));
    out.w = pack(from_float<T>(acc[t + 1][2] + bias[1]), from_float<T>(acc[t + 1][3] + bias[1]));
    store_matrices(shared + token * 128 + (piece ^ token % 8) * 16, out);
  }
}
template <typename T, typename Shape>
__device__ __forceinline__ void store_sums_of_group(const unsigned char* shared, const ManyArgs& a, int first_row,
                                                    int first_token, int thread) {
  const int tokens = min(Shape::kTokens, a.tokens - first_token);
  for (int e = thread; e < tokens * 8; e += 128) {
    const int token = e / 8, piece = e % 8, row = first_row + piece * 8;
    const uint4 sums = *reinterpret_cast<const uint4*>(shared + token * 128 + (piece ^ token % 8) * 16);
    T* y = static_cast<T*>(a.y) + static_cast<std::size_t>(first_token + token) * a.d_out + row;
    if (a.d_out % 8 == 0 && row < a.d_out) *reinterpret_cast<uint4*>(y) = sums;
    else
      for (int i = 0; i < 8 && row + i < a.d_out; ++i) y[i] = reinterpret_cast<const T*>(&sums)[i];
  }
}

// A warpgroup's rows of y.
template <typename T, typename Shape>
__device__ __forceinline__ void finish_group(unsigned char* shared, const float (&acc)[Shape::kTiles][4],
                                             const ManyArgs& a, const ManyWork& work, int warp, int lane) {
  const int group = warp / 4, first_row = work.first_row_block * kRowBlock + group * 64;
  unsigned char* mine = shared + group * Shape::kXBytes;
  stage_sums<T, Shape>(mine, acc, a, first_row, warp, lane);
  meet(2 + group, 128);
  store_sums_of_group<T, Shape>(mine, a, first_row, work.first_token, threadIdx.x % 128);
}

// Sums of all splits: every block lays its own into shared memory, [token][row], and adds up a share of the tokens.
template <typename Shape>
__device__ __forceinline__ void stage_split(float* sums, const float (&acc)[Shape::kTiles][4], int warp, int lane) {
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      sums[(8 * t + lane % 4 * 2 + i % 2) * Shape::kSumStride + warp * 16 + lane / 4 + i / 2 * 8] = acc[t][i];
}
template <typename T, typename Shape>
__device__ __forceinline__ void store_split(const float* sums, const ManyArgs& a, const ManyWork& work, int thread) {
  constexpr int kQuads = kManyRows / 4, kShare = Shape::kTokens / Shape::kSplits;
  for (int e = thread; e < kShare * kQuads; e += Shape::kThreads) {
    const int local = work.rank * kShare + e / kQuads, token = work.first_token + local;
    if (token >= a.tokens) break;
    const auto* from = reinterpret_cast<const float4*>(sums + local * Shape::kSumStride) + e % kQuads;
    float4 sum{};
#pragma unroll
    for (int s = 0; s < Shape::kSplits; ++s) add(sum, load_in_cluster(from, s));
    store_four<T>(a, token, work.first_row_block * kRowBlock + e % kQuads * 4, sum);
  }
}

template <typename Shape>
__device__ __forceinline__ ManyWork many_work(const ManyArgs& a) {
  constexpr int kBlocks = Shape::kCluster * Shape::kSplits;
  const int cluster = static_cast<int>(blockIdx.x) / kBlocks;
  const int row_groups = blocks(blocks(a.d_out, kManyRows), Shape::kCluster);
  const int token_tiles = blocks(a.tokens, Shape::kTokens);
  const int band = cluster / (row_groups * kManyBand), rest = cluster - band * row_groups * kManyBand;
  const int width = min(kManyBand, token_tiles - band * kManyBand);
  ManyWork work{};
  work.rank = kBlocks == 1 ? 0 : cluster_rank();
  work.first_row_block = (rest / width * Shape::kCluster + (Shape::kCluster > 1 ? work.rank : 0)) * Shape::kRowBlocks;
  work.first_token = (band * kManyBand + rest % width) * Shape::kTokens;
  for (int i = 0; i < kMaxParts - 1; ++i) work.part += work.first_row_block >= a.part_end[i];
  const int split = Shape::kSplits > 1 ? work.rank : 0;
  const int units = a.column_blocks + blocks(a.rank_steps, kRankTiles);  // a stage of ranks costs one of columns
  work.first_column = min(units * split / Shape::kSplits, a.column_blocks);
  work.last_column = min(units * (split + 1) / Shape::kSplits, a.column_blocks);
  if (split == Shape::kSplits - 1) work.last_column = a.column_blocks, work.rank_steps = a.rank_steps;
  return work;
}

template <typename T, typename Shape>
__device__ __forceinline__ void many_block(const ManyArgs& a, const CUtensorMap* x_map, const CUtensorMap* t_map) {
  extern __shared__ unsigned char raw[];
  __shared__ ManyBarriers<Shape> barriers;
  unsigned char* shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const ManyRings<Shape> rings{shared, barriers};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4;
  if (threadIdx.x == 0) rings.init();
  __syncthreads();
  if constexpr (Shape::kCluster > 1)
    cluster_arrive_relaxed(), cluster_wait();  // barriers exist before they are signalled
  const ManyWork work = many_work<Shape>(a);
  auto* sums = reinterpret_cast<float*>(shared);
  if (group == 2) {
    if constexpr (!Shape::kSmall) fewer_registers<40>();
    if (warp == 8 && lane == 0) ManyProducer<Shape>{a, x_map, t_map, rings, work}.run();
  } else {
    if constexpr (!Shape::kSmall) more_registers<232>();
    ManyConsumer<T, Shape> consumer{rings, warp, lane};
    consumer.columns(work.last_column - work.first_column);
    consumer.ranks(work.rank_steps);
    meet(1, 256);  // both groups are done with the rings
    if constexpr (Shape::kSplits == 1) finish_group<T, Shape>(shared, consumer.acc, a, work, warp, lane);
    else stage_split<Shape>(sums, consumer.acc, warp, lane);
  }
  if constexpr (Shape::kSplits > 1) {
    cluster_arrive(), cluster_wait();
    store_split<T, Shape>(sums, a, work, threadIdx.x);
    cluster_arrive_relaxed(), cluster_wait();  // nobody leaves while its sums are read
  }
  if constexpr (Shape::kCluster > 1) cluster_arrive_relaxed(), cluster_wait();  // the other block may still signal here
}

#endif  // SPARLOW_SM90

template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    many_kernel(const ManyArgs a, const __grid_constant__ CUtensorMap x_map,
                const __grid_constant__ CUtensorMap t_map) {
#if SPARLOW_SM90
  many_block<T, Shape>(a, &x_map, &t_map);
#endif
}
template <typename T, typename Shape>
__global__ void __maxnreg__(128) many_small_kernel(const ManyArgs a, const __grid_constant__ CUtensorMap x_map,
                                                   const __grid_constant__ CUtensorMap t_map) {
#if SPARLOW_SM90
  many_block<T, Shape>(a, &x_map, &t_map);
#endif
}

}  // namespace sparlow::kernels
