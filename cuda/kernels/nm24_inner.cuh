// The blocks that compute t = x vᵀ: 16 ranks, up to 8 kTiles tokens and all columns each. t is stored as high + low
// 16-bit parts, so the second product loses nothing to its rounding.
#pragma once

#include "nm24_ring.cuh"

namespace sparlow::kernels {

constexpr int kInnerStride = kRankBlock + 4;  // of 16 ranks in shared memory: lanes of a quad fall into other banks

template <typename T>
__device__ __forceinline__ void store_t(uint4* units, int rank, int token, float value) {
  const T high = from_float<T>(value);
  const float rest = value - to_float(high);
  const T low = from_float<T>(isfinite(rest) ? rest : 0.f);
  auto* unit = reinterpret_cast<T*>(units + token / 8 * 32 + token % 8 * 4 + rank % 8 / 2);
  unit[rank / 8 * 2 + rank % 2] = high;
  unit[4 + rank / 8 * 2 + rank % 2] = low;
}

template <typename T, int kTiles>
__device__ __forceinline__ void multiply_v(float (&acc)[kTiles][4], const unsigned char* stage, int tokens, int lane) {
  const auto* v = reinterpret_cast<const uint4*>(stage) + lane;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint4 first = v[step * 64], second = v[step * 64 + 32];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const uint4 x = load_x(stage + kRankBlockBytes, t, step, tokens, lane);
      mma_dense<T>(acc[t], first, x.x, x.y);
      mma_dense<T>(acc[t], second, x.z, x.w);
    }
  }
}

// Block `index` of those that compute t; `warps` of its warps take part, each with `warp_bytes` of shared memory and
// kMaxStages barriers.
template <typename T, int kTiles, int kMaxStages>
__device__ __forceinline__ void inner_block(const ForwardArgs& a, int index, unsigned char* shared, int warp_bytes,
                                            Barrier* full, int warps) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int steps = a.parts * a.rank_steps, step = index % steps, first_token = index / steps * 8 * kTiles;
  const int tokens = min(a.tokens - first_token, 8 * kTiles);
  unsigned char* memory = shared + warp * warp_bytes;
  if (warp < warps) {
    const int stages = min(kMaxStages, warp_bytes / WarpRing::stage_bytes(kRankBlockBytes, tokens));
    WarpRing ring{a,
                  reinterpret_cast<const unsigned char*>(a.v) +
                      static_cast<std::size_t>(step) * a.column_blocks * kRankBlockBytes,
                  kRankBlockBytes,
                  warp,
                  warps,
                  (a.column_blocks - warp + warps - 1) / warps,
                  first_token,
                  tokens,
                  memory,
                  stages,
                  full + warp * kMaxStages,
                  lane};
    ring.start();
    float acc[kTiles][4] = {};
    for (int i = 0; i < ring.count; ++i) {
      multiply_v<T, kTiles>(acc, ring.acquire(), tokens, lane);
      ring.release(i);
    }
    auto* sums = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(8 * t + lane % 4 * 2 + i % 2) * kInnerStride + lane / 4 + i / 2 * 8] = acc[t][i];
  }
  __syncthreads();
  const int tile = first_token / 8;
  uint4* out = a.t_of(tile / a.group_tiles, step) + tile % a.group_tiles * 32;
  for (int e = threadIdx.x; e < 16 * tokens; e += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < warps; ++w)
      sum += reinterpret_cast<const float*>(shared + w * warp_bytes)[e / 16 * kInnerStride + e % 16];
    store_t<T>(out, e % 16, e / 16, sum);
  }
  __syncthreads();
  if (threadIdx.x == 0) announce_t(a);
}

}  // namespace sparlow::kernels
