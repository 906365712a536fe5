// First kernel of a forward pass: lays x out as matrix-instruction operands and computes t = x vᵀ.
//
// A block has 16 ranks and an eighth of the columns; the blocks that share ranks form a cluster and add up in a fixed
// order. t is stored as high + low 16-bit parts, so the second product loses nothing to its rounding.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

constexpr int kPrepareWarps = 8, kPrepareSplits = 8;
constexpr int kPrepareStride = 20;  // of 16 ranks in shared memory: lanes of a quad fall into different banks

// Eight consecutive elements of a row of x, zero outside.
__device__ __forceinline__ uint4 load_x(const ForwardArgs& a, int token, int col) {
  if (token >= a.tokens || col >= a.d_in) return make_uint4(0, 0, 0, 0);
  const auto* row = static_cast<const std::uint16_t*>(a.x) + static_cast<std::size_t>(token) * a.d_in;
  if (a.d_in % 8 == 0) return __ldcg(reinterpret_cast<const uint4*>(row + col));
  std::uint32_t words[4] = {};
  for (int i = 0; i < 8 && col + i < a.d_in; ++i)
    words[i / 2] |= static_cast<std::uint32_t>(row[col + i]) << (16 * (i % 2));
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Lane (g, q) has columns 8 q .. 8 q + 7 of token g; as an operand, lane (g, i) holds 2 i, 2 i + 1 of every eight.
template <int kTiles>
__device__ __forceinline__ void store_x_operand(const ForwardArgs& a, int step, int tile, int lane, const uint4& x) {
  auto* words = reinterpret_cast<std::uint32_t*>(a.x_operand) +
                ((static_cast<std::size_t>(step) * kTiles + tile) * 32 + (lane & ~3)) * 4 + lane % 4;
  words[0] = x.x, words[4] = x.y, words[8] = x.z, words[12] = x.w;
}

template <typename T>
__device__ __forceinline__ void store_t_operand(uint4* unit_of_step, int rank, int token, float value) {
  const T high = from_float<T>(value);
  const float rest = value - to_float(high);
  const T low = from_float<T>(isfinite(rest) ? rest : 0.f);
  auto* unit = reinterpret_cast<T*>(unit_of_step + token / 8 * 32 + token % 8 * 4 + rank % 8 / 2);
  unit[rank / 8 * 2 + rank % 2] = high;
  unit[4 + rank / 8 * 2 + rank % 2] = low;
}

template <typename T, int kTiles>
__global__ void __launch_bounds__(kPrepareWarps * 32) prepare_kernel(const ForwardArgs a) {
  constexpr int kTokens = 8 * kTiles, kShare = 16 * kTokens / kPrepareSplits;
  __shared__ float partial[kPrepareWarps][kTokens * kPrepareStride];
  __shared__ float inbox[kPrepareSplits][kShare];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split = blockIdx.x, splits = gridDim.x, rank_tile = blockIdx.y, rank_tiles = gridDim.y;
  const int steps = a.column_blocks * (kColumnBlock / kStep);
  const int begin = steps * split / splits + warp, end = steps * (split + 1) / splits;
  const bool ranks = a.rank_steps > 0;
  const uint4* v = a.v + static_cast<std::size_t>(rank_tile) * steps * 64 + lane;

  allow_next_kernel();
#if SPARLOW_SM90
  cluster_arrive();
  if (ranks)
    for (int s = begin; s < end; s += kPrepareWarps) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(v + s * 64)));
      asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(v + s * 64 + 32)));
    }
#endif
  wait_for_previous_kernel();

  float acc[kTiles][4] = {};
#pragma unroll(kTiles <= 2 ? 4 : 1)
  for (int s = begin; s < end; s += kPrepareWarps) {
    uint4 x[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) x[t] = load_x(a, 8 * t + lane / 4, s * kStep + 8 * (lane % 4));
    const uint4 first = ranks ? __ldg(v + s * 64) : make_uint4(0, 0, 0, 0);
    const uint4 second = ranks ? __ldg(v + s * 64 + 32) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (s % rank_tiles == rank_tile) store_x_operand<kTiles>(a, s, t, lane, x[t]);
      mma_dense<T>(acc[t], first, x[t].x, x[t].y);
      mma_dense<T>(acc[t], second, x[t].z, x[t].w);
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      partial[warp][(8 * t + lane % 4 * 2 + i % 2) * kPrepareStride + lane / 4 + i / 2 * 8] = acc[t][i];
  __syncthreads();
#if SPARLOW_SM90
  cluster_wait();
#endif
  uint4* out = a.t_operand + static_cast<std::size_t>(rank_tile) * kTiles * 32;
  for (int e = threadIdx.x; ranks && e < 16 * kTokens; e += kPrepareWarps * 32) {
    float sum = 0;
    for (int w = 0; w < kPrepareWarps; ++w) sum += partial[w][e / 16 * kPrepareStride + e % 16];
#if SPARLOW_SM90
    store_in_cluster(&inbox[split][e % kShare], e / kShare, sum);
#else
    store_t_operand<T>(out, e % 16, e / 16, sum);
#endif
  }
#if SPARLOW_SM90
  cluster_arrive();
  cluster_wait();
  for (int e = threadIdx.x; ranks && e < kShare; e += kPrepareWarps * 32) {
    float sum = 0;
    for (int s = 0; s < kPrepareSplits; ++s) sum += inbox[s][e];
    store_t_operand<T>(out, (split * kShare + e) % 16, (split * kShare + e) / 16, sum);
  }
#endif
}

}  // namespace sparlow::kernels
