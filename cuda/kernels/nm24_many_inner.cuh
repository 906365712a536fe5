// t = x vᵀ for many tokens, as two 16-bit numbers whose sum it is: the kernel before nm24_many.cuh. Bound by reading x.
//
// The blocks of a cluster share the columns and add up in a fixed order through each other's shared memory.
#pragma once

#include "nm24_inner.cuh"

namespace sparlow::kernels {

constexpr int kManyInnerSplits = 8, kManyInnerWarps = 8;
constexpr int kRankStage = kManyRankStage, kRankTiles = kRankStage / kRankBlock;  // ranks of one block

struct ManyInnerArgs {
  const uint4* v;
  const void* x;  // [tokens, d_in], rows at multiples of 16 bytes
  void* t;        // [tokens, t_columns]
  int d_in, tokens;
  int steps;            // of 32 columns
  int rank_steps;       // of one part
  int stages_per_part;  // of kRankStage ranks
  int t_columns;        // of all parts: [part][stage of ranks][high, low][64]
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
  const uint4* v;  // of the first rank tile, this lane
  int rank_tiles;  // that exist, up to kRankTiles
  int first_token, lane;

  __device__ __forceinline__ void load(ManyInnerStep<kTiles>& to, int step) const {
#pragma unroll
    for (int r = 0; r < kRankTiles; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        to.v[r][half] = r < rank_tiles ? __ldg(v + (static_cast<std::size_t>(r) * a.steps + step) * 64 + 32 * half)
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
      for (int t = 0; t < kTiles; ++t) {
        mma_dense<T>(acc[r][t], s.v[r][0], s.x[t].x, s.x[t].y);
        mma_dense<T>(acc[r][t], s.v[r][1], s.x[t].z, s.x[t].w);
      }
  }
  __device__ __forceinline__ void run(float (&acc)[kRankTiles][kTiles][4], int begin, int end) const {
    ManyInnerStep<kTiles> even, odd;
    if (begin < end) load(even, begin);
    for (int s = begin; s < end; s += 2) {
      if (s + 1 < end) load(odd, s + 1);
      multiply(acc, even);
      if (s + 2 < end) load(even, s + 2);
      if (s + 1 < end) multiply(acc, odd);
    }
  }
};

// Four sums of one token to their place in t.
template <typename T>
__device__ __forceinline__ void store_t(const ManyInnerArgs& a, int token, int stage, int rank, const float4& sum) {
  const T x = from_float<T>(sum.x), y = from_float<T>(sum.y), z = from_float<T>(sum.z), w = from_float<T>(sum.w);
  T* to = static_cast<T*>(a.t) + static_cast<std::size_t>(token) * a.t_columns + stage * (2 * kRankStage) + rank;
  *reinterpret_cast<uint2*>(to) = make_uint2(pack(x, y), pack(z, w));
  *reinterpret_cast<uint2*>(to + kRankStage) = make_uint2(pack(remainder_of(sum.x, x), remainder_of(sum.y, y)),
                                                          pack(remainder_of(sum.z, z), remainder_of(sum.w, w)));
}

#endif  // SPARLOW_SM90

// Grid: (kManyInnerSplits, groups of 64 kTiles tokens, stages of ranks of all parts), clusters along the first.
template <typename T, int kTiles>
__global__ void __launch_bounds__(kManyInnerWarps * 32) many_inner_kernel(const ManyInnerArgs a) {
#if SPARLOW_SM90
  constexpr int kTokens = 8 * kTiles * kManyInnerWarps, kStride = kRankStage + 4, kQuads = kRankStage / 4;
  __shared__ __align__(16) float sums[kTokens * kStride];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.x, stage = blockIdx.z;
  const int first_rank_step = stage % a.stages_per_part * kRankTiles;
  const int rank_tile = stage / a.stages_per_part * a.rank_steps + first_rank_step;
  wait_for_previous_kernel();
  allow_next_kernel();  // not earlier: who starts then may read what was there before
  const ManyInner<T, kTiles> inner{a, a.v + static_cast<std::size_t>(rank_tile) * a.steps * 64 + lane,
                                   min(a.rank_steps - first_rank_step, kRankTiles),
                                   static_cast<int>(blockIdx.y) * kTokens + warp * 8 * kTiles, lane};
  float acc[kRankTiles][kTiles][4] = {};
  inner.run(acc, a.steps * split / kManyInnerSplits, a.steps * (split + 1) / kManyInnerSplits);
#pragma unroll
  for (int r = 0; r < kRankTiles; ++r)
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(warp * 8 * kTiles + 8 * t + lane % 4 * 2 + i % 2) * kStride + r * 16 + lane / 4 + i / 2 * 8] =
            acc[r][t][i];
  cluster_arrive(), cluster_wait();
  constexpr int kMine = kTokens / kManyInnerSplits;  // tokens this block adds up
  for (int e = threadIdx.x; e < kMine * kQuads; e += kManyInnerWarps * 32) {
    const int local = split * kMine + e / kQuads, token = blockIdx.y * kTokens + local;
    if (token >= a.tokens) break;
    const auto* from = reinterpret_cast<const float4*>(sums + local * kStride) + e % kQuads;
    float4 sum{};
#pragma unroll
    for (int s = 0; s < kManyInnerSplits; ++s) {
      const float4 part = load_in_cluster(from, s);
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
    store_t<T>(a, token, stage, e % kQuads * 4, sum);
  }
  cluster_arrive(), cluster_wait();  // nobody leaves while its sums are read
#endif
}

}  // namespace sparlow::kernels
