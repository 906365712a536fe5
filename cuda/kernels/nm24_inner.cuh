// The blocks that compute t = x vᵀ. Eight of them share the columns of a unit, so that the little there is to read comes
// at once although all other blocks ask for memory too. Who uses t adds the shares up, in a fixed order, and takes t as
// a sum of two 16-bit numbers, so that the second product loses nothing to its rounding.
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
__device__ __forceinline__ std::uint32_t pack(T first, T second) {
  T both[2] = {first, second};
  return *reinterpret_cast<const std::uint32_t*>(both);
}
// What 16 bits leave of a value; nothing of one that overflows.
template <typename T>
__device__ __forceinline__ T remainder_of(float value, T high) {
  const float rest = value - to_float(high);
  return from_float<T>(isfinite(rest) ? rest : 0.f);
}

// Operand B of u t, its high parts, then its low parts: a lane has ranks 2 q, 2 q + 1, 2 q + 8, 2 q + 9 of token g.
template <typename T>
__device__ __forceinline__ uint4 sum_shares(const float4* shares, int stride) {
  float4 sum{};
#pragma unroll
  for (int s = 0; s < kInnerSplits; ++s) {
    const float4 share = __ldcg(shares + s * stride);
    sum.x += share.x, sum.y += share.y, sum.z += share.z, sum.w += share.w;
  }
  const T x = from_float<T>(sum.x), y = from_float<T>(sum.y), z = from_float<T>(sum.z), w = from_float<T>(sum.w);
  return make_uint4(pack(x, y), pack(z, w), pack(remainder_of(sum.x, x), remainder_of(sum.y, y)),
                    pack(remainder_of(sum.z, z), remainder_of(sum.w, w)));
}

// All threads: is this the last block of the unit?
__device__ __forceinline__ bool last_to_arrive(const ForwardArgs& a, int unit) {
  __shared__ unsigned before;
  if (threadIdx.x == 0)
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(&a.progress->arrivals[unit]), "r"(kInnerSplits - 1)
                 : "memory");
  __syncthreads();
  return before == kInnerSplits - 1;
}

// Block `index` of kInnerSplits * t_units; its first kWarps warps multiply. `shared` has 8 kTiles * kShareStride floats
// for each. kSumHere: the last of the blocks adds up, for users that want t_operand.
template <typename T, int kTiles, int kWarps, bool kSumHere>
__device__ __forceinline__ void inner_block(const ForwardArgs& a, int index, unsigned char* shared) {
  constexpr int kTokens = 8 * kTiles, kShare = kTiles * 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split = index % kInnerSplits, unit = index / kInnerSplits;
  const int rank_tiles = a.parts * a.rank_steps, rank_tile = unit % rank_tiles, first_tile = unit / rank_tiles * kTiles;
  const int steps = a.column_blocks * (kColumnBlock / kStep);
  auto* sums = reinterpret_cast<float*>(shared);
  wait_for_previous_kernel();
  if (warp < kWarps) {
    float acc[kTiles][4] = {};
    multiply_v<T, kTiles, kWarps>(acc, a, a.v + static_cast<std::size_t>(rank_tile) * steps * 64 + lane,
                                  steps * split / kInnerSplits + warp, steps * (split + 1) / kInnerSplits,
                                  8 * first_tile, lane);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(warp * kTokens + 8 * t + lane % 4 * 2 + i % 2) * kShareStride + lane / 4 + i / 2 * 8] = acc[t][i];
  }
  __syncthreads();
  float4* shares = a.t_shares + static_cast<std::size_t>(unit) * kInnerSplits * kShare;
  for (int e = threadIdx.x; e < kShare; e += blockDim.x) {
    const int token = e / 4, rank = e % 4 * 2;
    float4 sum{};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* from = sums + (w * kTokens + token) * kShareStride + rank;
      sum.x += from[0], sum.y += from[1], sum.z += from[8], sum.w += from[9];
    }
    __stcg(shares + split * kShare + e, sum);
  }
  __syncthreads();
  if constexpr (!kSumHere) {
    if (threadIdx.x == 0) announce_t(a, 1);
  } else if (last_to_arrive(a, unit)) {
    uint4* out = a.t_of(first_tile / a.group_tiles, rank_tile) + first_tile % a.group_tiles * 32;
    for (int e = threadIdx.x; e < kShare; e += blockDim.x) __stcg(out + e, sum_shares<T>(shares + e, kShare));
    __syncthreads();
    if (threadIdx.x == 0) announce_t(a, kInnerSplits);
  }
}

}  // namespace sparlow::kernels
