// First kernel of a forward pass: t = x vᵀ, for the second to add u t. It lets the second start at once, so that t is
// computed while s is read.
//
// A block has 16 ranks, up to 16 tokens and an eighth of the columns; the blocks that share ranks and tokens form a
// cluster and add up in a fixed order. t is stored as high + low 16-bit parts, so the second product loses nothing to
// its rounding.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

constexpr int kPrepareWarps = 8, kPrepareSplits = 8;
constexpr int kPrepareStride = 20;  // of 16 ranks in shared memory: lanes of a quad fall into different banks

// Eight consecutive elements of a row of x, zero outside.
__device__ __forceinline__ uint4 load_x(const ForwardArgs& a, int token, int col) {
  if (token >= a.tokens || col >= a.d_in) return make_uint4(0, 0, 0, 0);
  const auto* row = static_cast<const std::uint16_t*>(a.x) + static_cast<std::size_t>(token) * a.d_in + col;
  if (a.wide_x) return __ldcg(reinterpret_cast<const uint4*>(row));
  const auto* halves = reinterpret_cast<const uint2*>(row);
  const uint2 first = __ldcg(halves), second = col + 4 < a.d_in ? __ldcg(halves + 1) : make_uint2(0, 0);
  return make_uint4(first.x, first.y, second.x, second.y);
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

// Products of this warp's share of the columns: every eighth step from `begin` on.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_v(float (&acc)[kTiles][4], const ForwardArgs& a, const uint4* v, int begin,
                                           int end, int first_token, int lane) {
#pragma unroll 4
  for (int s = begin; s < end; s += kPrepareWarps) {
    uint4 x[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) x[t] = load_x(a, first_token + 8 * t + lane / 4, s * kStep + 8 * (lane % 4));
    const uint4 first = __ldg(v + s * 64), second = __ldg(v + s * 64 + 32);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      mma_dense<T>(acc[t], first, x[t].x, x[t].y);
      mma_dense<T>(acc[t], second, x[t].z, x[t].w);
    }
  }
}

// Adds up the warps' sums and those of the cluster's blocks; each block stores its share.
template <typename T, int kTiles>
__device__ __forceinline__ void finish_t(const float (&partial)[kPrepareWarps][8 * kTiles * kPrepareStride],
                                         float (&inbox)[kPrepareSplits][16 * kTiles], uint4* out) {
  constexpr int kShare = 16 * kTiles;
  for (int e = threadIdx.x; e < 128 * kTiles; e += kPrepareWarps * 32) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kPrepareWarps; ++w) sum += partial[w][e / 16 * kPrepareStride + e % 16];
#if SPARLOW_SM90
    store_in_cluster(&inbox[blockIdx.x][e % kShare], e / kShare, sum);
#else
    store_t<T>(out, e % 16, e / 16, sum);
#endif
  }
#if SPARLOW_SM90
  cluster_arrive();
  cluster_wait();
  if (threadIdx.x < kShare) {
    float sum = 0;
#pragma unroll
    for (int s = 0; s < kPrepareSplits; ++s) sum += inbox[s][threadIdx.x];
    store_t<T>(out, threadIdx.x % 16, (blockIdx.x * kShare + threadIdx.x) / 16, sum);
  }
#endif
}

// Grid: (splits, rank steps of all parts, groups of 8 kTiles tokens). Splits: 8, a cluster; 1 before sm_90.
template <typename T, int kTiles>
__global__ void __launch_bounds__(kPrepareWarps * 32) prepare_kernel(const ForwardArgs a) {
  __shared__ float partial[kPrepareWarps][8 * kTiles * kPrepareStride];
  __shared__ float inbox[kPrepareSplits][16 * kTiles];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split = blockIdx.x, splits = gridDim.x;
  const int steps = a.column_blocks * (kColumnBlock / kStep);
  const uint4* v = a.v + static_cast<std::size_t>(blockIdx.y) * steps * 64 + lane;

  wait_for_previous_kernel();  // the next kernel reads x without waiting: it may start only now
  allow_next_kernel();
#if SPARLOW_SM90
  cluster_arrive();
#endif
  float acc[kTiles][4] = {};
  multiply_v<T, kTiles>(acc, a, v, steps * split / splits + warp, steps * (split + 1) / splits, blockIdx.z * 8 * kTiles,
                        lane);
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      partial[warp][(8 * t + lane % 4 * 2 + i % 2) * kPrepareStride + lane / 4 + i / 2 * 8] = acc[t][i];
  __syncthreads();
#if SPARLOW_SM90
  cluster_wait();  // the inboxes exist
#endif
  const int tile = blockIdx.z * kTiles;
  finish_t<T, kTiles>(partial, inbox, a.t_of(tile / a.group_tiles, blockIdx.y) + tile % a.group_tiles * 32);
}

}  // namespace sparlow::kernels
