// t = x vᵀ for many tokens: the kernel before nm24_many.cuh. Bound by reading x.
//
// The blocks of a cluster share the columns and add up in a fixed order through each other's shared memory.
#pragma once

#include "nm24_inner.cuh"

namespace sparlow::kernels {

constexpr int kManyInnerSplits = 8, kManyInnerWarps = 4;
constexpr int kRankStage = kManyRankStage, kRankTiles = kRankStage / kRankBlock;  // ranks of one block
constexpr int kInnerStride = kRankStage + 4;                                      // of sums

struct ManyInnerArgs {
  const uint4* v;
  const void* x;  // [tokens, d_in], rows at multiples of 16 bytes
  void* t;        // [tokens, t_columns], each number as a sum of two, so that rounding loses nothing
  int d_in, tokens;
  int steps;            // of 32 columns
  int rank_steps;       // of one part
  int stages_per_part;  // of kRankStage ranks
  int t_columns;        // of all parts: [part][stage of ranks][high, low part][64]
};

#if SPARLOW_SM90

__device__ __forceinline__ float4 load_in_cluster(const float4* local, unsigned rank) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address_in_cluster(local, rank))
               : "memory");
  return v;
}

template <int kTiles>
struct ManyInnerStep {
  uint4 v[kRankTiles][2], x[kTiles];
};

// Warp's tokens, this block's columns. Two steps are under way while one is multiplied.
template <typename T, int kTiles>
struct ManyInner {
  const ManyInnerArgs& a;
  const uint4* v;  // of the first rank tile, this lane's unit
  int rank_tiles;  // that exist, up to kRankTiles
  int first_token, lane;

  __device__ __forceinline__ void load(ManyInnerStep<kTiles>& to, int step) const {
#pragma unroll
    for (int r = 0; r < kRankTiles; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        to.v[r][half] = r < rank_tiles ? __ldg(v + (static_cast<std::size_t>(r) * a.steps + step) * 64 + 8 * half)
                                       : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int token = first_token + 8 * t + lane / 4, column = step * kStep + 8 * (lane % 4);
      const auto* x = static_cast<const std::uint16_t*>(a.x) + static_cast<std::size_t>(token) * a.d_in + column;
      to.x[t] =
          token < a.tokens && column < a.d_in ? __ldcg(reinterpret_cast<const uint4*>(x)) : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ __forceinline__ void multiply(float (&acc)[kRankTiles][kTiles][4], const ManyInnerStep<kTiles>& s) const {
#pragma unroll
    for (int r = 0; r < kRankTiles; ++r)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) multiply_step<T>(acc[r][t], s.v[r][0], s.v[r][1], s.x[t]);
  }
  // Every `stride`-th step.
  __device__ __forceinline__ void run(float (&acc)[kRankTiles][kTiles][4], int begin, int end, int stride) const {
    ManyInnerStep<kTiles> even, odd;
    if (begin < end) load(even, begin);
    for (int s = begin; s < end; s += 2 * stride) {
      if (s + stride < end) load(odd, s + stride);
      multiply(acc, even);
      if (s + 2 * stride < end) load(even, s + 2 * stride);
      if (s + stride < end) multiply(acc, odd);
    }
  }
};

// Four sums of one token to their places in t.
template <typename T>
__device__ __forceinline__ void store_t(const ManyInnerArgs& a, int token, int stage, int rank, const float4& sum) {
  T* to = static_cast<T*>(a.t) + static_cast<std::size_t>(token) * a.t_columns + stage * (2 * kRankStage) + rank;
  const uint4 both = operand_of<T>(sum);
  *reinterpret_cast<uint2*>(to) = make_uint2(both.x, both.y);
  *reinterpret_cast<uint2*>(to + kRankStage) = make_uint2(both.z, both.w);
}

// A block's share of the tokens of a group: sums of all blocks of the cluster, in a fixed order. sums: [token][rank].
template <typename T, int kTokens, int kThreads>
__device__ __forceinline__ void add_cluster(const ManyInnerArgs& a, const float* sums, int first_token, int split,
                                            int stage, int thread) {
  constexpr int kMine = kTokens / kManyInnerSplits, kQuads = kRankStage / 4;
  for (int e = thread; e < kMine * kQuads; e += kThreads) {
    const int local = split * kMine + e / kQuads, token = first_token + local;
    if (token >= a.tokens) break;
    const auto* from = reinterpret_cast<const float4*>(sums + local * kInnerStride) + e % kQuads;
    float4 sum{};
#pragma unroll
    for (int s = 0; s < kManyInnerSplits; ++s) {
      const float4 part = load_in_cluster(from, s);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    store_t<T>(a, token, stage, e % kQuads * 4, sum);
  }
}

#endif  // SPARLOW_SM90

template <int kTiles, int kTokenWarps>
struct ManyInnerShape {
  static constexpr int kTokens = 8 * kTiles * kTokenWarps, kColumnWarps = kManyInnerWarps / kTokenWarps;
  static constexpr int kStride = kInnerStride;
};

// Sums of a block's column warps into those of the first.
template <typename Shape>
__device__ __forceinline__ void add_column_warps(float* sums) {
  if constexpr (Shape::kColumnWarps > 1) {
    __syncthreads();
    constexpr int kOf = Shape::kTokens * Shape::kStride / 4;
    auto* quads = reinterpret_cast<float4*>(sums);
    for (int e = threadIdx.x; e < kOf; e += kManyInnerWarps * 32) {
      float4 sum = quads[e];
#pragma unroll
      for (int w = 1; w < Shape::kColumnWarps; ++w) {
        const float4 part = quads[w * kOf + e];
        sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
      }
      quads[e] = sum;
    }
  }
}

// Grid: (kManyInnerSplits, groups of 8 kTiles kTokenWarps tokens, stages of ranks of all parts), clusters along the
// first. The other warps of a block share its columns: for few tokens all of them do, so that everything is asked for
// at once. Four blocks fit a multiprocessor, and one beside a block of many_small_kernel.
template <typename T, int kTiles, int kTokenWarps>
__global__ void __launch_bounds__(kManyInnerWarps * 32, 4) many_inner_kernel(const ManyInnerArgs a) {
#if SPARLOW_SM90
  using Shape = ManyInnerShape<kTiles, kTokenWarps>;
  __shared__ __align__(16) float sums[Shape::kColumnWarps * Shape::kTokens * Shape::kStride];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.x, stage = blockIdx.z;
  const int token_warp = warp % kTokenWarps, column_warp = warp / kTokenWarps;
  const int first_token = static_cast<int>(blockIdx.y) * Shape::kTokens;
  const int first_rank_step = stage % a.stages_per_part * kRankTiles;
  const int rank_tile = stage / a.stages_per_part * a.rank_steps + first_rank_step;
  wait_for_previous_kernel();
  allow_next_kernel();  // not earlier: who starts then may read what was there before
  const ManyInner<T, kTiles> inner{a, a.v + static_cast<std::size_t>(rank_tile) * a.steps * 64 + v_unit(lane),
                                   min(a.rank_steps - first_rank_step, kRankTiles),
                                   first_token + token_warp * 8 * kTiles, lane};
  float acc[kRankTiles][kTiles][4] = {};
  inner.run(acc, a.steps * split / kManyInnerSplits + column_warp, a.steps * (split + 1) / kManyInnerSplits,
            Shape::kColumnWarps);
#pragma unroll
  for (int r = 0; r < kRankTiles; ++r)
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[((column_warp * kTokenWarps + token_warp) * 8 * kTiles + 8 * t + lane % 4 * 2 + i % 2) * Shape::kStride +
             r * 16 + lane / 4 + i / 2 * 8] = acc[r][t][i];
  add_column_warps<Shape>(sums);
  cluster_arrive(), cluster_wait();
  add_cluster<T, Shape::kTokens, kManyInnerWarps * 32>(a, sums, first_token, split, stage, threadIdx.x);
  cluster_arrive_relaxed(), cluster_wait();  // nobody leaves while its sums are read
#endif
}

}  // namespace sparlow::kernels
