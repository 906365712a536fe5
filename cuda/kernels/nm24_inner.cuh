// The blocks that compute t = x vᵀ. A unit of t is 16 ranks and 8 kTiles tokens; eight blocks share its columns, so that
// the little there is to read comes at once although all other blocks ask for memory too. The last of them to finish
// adds up in a fixed order. t is stored as high + low 16-bit parts: the second product loses nothing to its rounding.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

constexpr int kShareStride = kRankBlock + 4;  // of 16 ranks in shared memory: lanes of a quad fall into other banks

// Eight consecutive elements of a row of x, zero outside.
__device__ __forceinline__ uint4 load_eight(const ForwardArgs& a, int token, int col) {
  if (token >= a.tokens || col >= a.d_in) return make_uint4(0, 0, 0, 0);
  const auto* row = static_cast<const std::uint16_t*>(a.x) + static_cast<std::size_t>(token) * a.d_in + col;
  if (a.wide_x) return __ldcg(reinterpret_cast<const uint4*>(row));
  const auto* halves = reinterpret_cast<const uint2*>(row);
  const uint2 first = __ldcg(halves), second = col + 4 < a.d_in ? __ldcg(halves + 1) : make_uint2(0, 0);
  return make_uint4(first.x, first.y, second.x, second.y);
}

// This warp's share of the columns: every kWarps-th step from `begin` on.
template <typename T, int kTiles, int kWarps>
__device__ __forceinline__ void multiply_v(float (&acc)[kTiles][4], const ForwardArgs& a, const uint4* v, int begin,
                                           int end, int first_token, int lane) {
  constexpr int kAtOnce = kTiles <= 2 ? 4 : 2;  // steps loaded before the first is used
  for (int s = begin; s < end; s += kAtOnce * kWarps) {
    uint4 rows[kAtOnce][2] = {}, x[kAtOnce][kTiles] = {};
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int step = s + n * kWarps;
      if (step >= end) break;
      rows[n][0] = __ldg(v + step * 64), rows[n][1] = __ldg(v + step * 64 + 32);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        x[n][t] = load_eight(a, first_token + 8 * t + lane / 4, step * kStep + 8 * (lane % 4));
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        mma_dense<T>(acc[t], rows[n][0], x[n][t].x, x[n][t].y);
        mma_dense<T>(acc[t], rows[n][1], x[n][t].z, x[n][t].w);
      }
  }
}

template <typename T>
__device__ __forceinline__ void store_t(uint4* units, int rank, int token, float value) {
  const T high = from_float<T>(value);
  const float rest = value - to_float(high);
  const T low = from_float<T>(isfinite(rest) ? rest : 0.f);
  auto* unit = reinterpret_cast<T*>(units + token / 8 * 32 + token % 8 * 4 + rank % 8 / 2);
  unit[rank / 8 * 2 + rank % 2] = high;
  unit[4 + rank / 8 * 2 + rank % 2] = low;
}

// All threads: is this the last block of the unit?
__device__ __forceinline__ bool last_to_arrive(const ForwardArgs& a, int unit) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(&a.progress->arrivals[unit], kInnerSplits - 1) == kInnerSplits - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// Block `index` of kInnerSplits * t_units; its first kWarps warps multiply. `shared` has 8 kTiles * kShareStride floats
// for each.
template <typename T, int kTiles, int kWarps>
__device__ __forceinline__ void inner_block(const ForwardArgs& a, int index, unsigned char* shared) {
  constexpr int kTokens = 8 * kTiles, kUnit = kRankBlock * kTokens;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split = index % kInnerSplits, unit = index / kInnerSplits;
  const int rank_tiles = a.parts * a.rank_steps, rank_tile = unit % rank_tiles;
  const int first_token = unit / rank_tiles * kTokens;
  const int steps = a.column_blocks * (kColumnBlock / kStep);
  const int begin = steps * split / kInnerSplits + warp, end = steps * (split + 1) / kInnerSplits;
  const uint4* v = a.v + static_cast<std::size_t>(rank_tile) * steps * 64 + lane;
  auto* sums = reinterpret_cast<float*>(shared);
#if SPARLOW_SM90
  if (warp < kWarps)
    for (int s = begin; s < end; s += kWarps) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(v + s * 64)));
      asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(v + s * 64 + 32)));
    }
#endif
  wait_for_previous_kernel();
  if (warp < kWarps) {
    float acc[kTiles][4] = {};
    multiply_v<T, kTiles, kWarps>(acc, a, v, begin, end, first_token, lane);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(warp * kTokens + 8 * t + lane % 4 * 2 + i % 2) * kShareStride + lane / 4 + i / 2 * 8] = acc[t][i];
  }
  __syncthreads();
  float* shares = a.t_shares + static_cast<std::size_t>(unit) * kInnerSplits * kUnit;
  for (int e = threadIdx.x; e < kUnit; e += blockDim.x) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[(w * kTokens + e / kRankBlock) * kShareStride + e % kRankBlock];
    __stcg(shares + split * kUnit + e, sum);
  }
  if (!last_to_arrive(a, unit)) return;
  const int tile = first_token / 8;
  uint4* out = a.t_of(tile / a.group_tiles, rank_tile) + tile % a.group_tiles * 32;
  for (int e = threadIdx.x; e < kUnit; e += blockDim.x) {
    float sum = 0;
#pragma unroll
    for (int s = 0; s < kInnerSplits; ++s) sum += __ldcg(shares + s * kUnit + e);
    store_t<T>(out, e % kRankBlock, e / kRankBlock, sum);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(&a.progress->t_ready, 1u);
  }
}

}  // namespace sparlow::kernels
