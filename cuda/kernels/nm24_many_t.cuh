// t = x vᵀ for so many tokens that only bandwidth counts: x by tensor copies, v straight into registers, products by
// warpgroup. Its blocks split the columns like those of nm24_many_inner.cuh.
#pragma once

#include "nm24_many_inner.cuh"
#include "nm24_warpgroup_many.cuh"

namespace sparlow::kernels {

constexpr int kTTokens = 256, kTStages = 6, kTThreads = 160;  // a warpgroup and the warp that copies x
constexpr int kTColumns = 64;                                 // of one stage
constexpr int kTStageBytes = kTTokens * kTColumns * 2, kTSharedBytes = kTStages * kTStageBytes + 1024;
static_assert(kTTokens * kInnerStride * 4 <= kTSharedBytes - 1024);

#if SPARLOW_SM90

struct TBarriers {
  Barrier full[kTStages], empty[kTStages];
};

struct TRing {
  unsigned char* memory;
  TBarriers& barriers;
  int first, count;  // stages of this block

  __device__ __forceinline__ void init() const {
    for (int s = 0; s < kTStages; ++s) barrier_init(&barriers.full[s], 1), barrier_init(&barriers.empty[s], 4);
    barrier_init_done();
  }
  // One thread.
  __device__ __forceinline__ void fill(const CUtensorMap* x_map, int first_token) const {
    for (int i = 0; i < count; ++i) {
      const int slot = i % kTStages;
      if (i >= kTStages) barrier_wait(&barriers.empty[slot], (i / kTStages - 1) % 2);
      barrier_expect(&barriers.full[slot], kTStageBytes);
      tensor_copy(memory + slot * kTStageBytes, x_map, (first + i) * kTColumns, first_token, &barriers.full[slot]);
    }
  }
};

// Operands of one stage: four steps of 16 columns.
__device__ __forceinline__ void load_va(uint4 (&to)[4], const uint4* va, int stage, int warp, int lane) {
#pragma unroll
  for (int s = 0; s < 4; ++s) to[s] = __ldg(va + static_cast<std::size_t>(stage * 4 + s) * 64 + warp % 2 * 32 + lane);
}

// A warp of the warpgroup: 16 ranks. va: of its 32 ranks.
template <typename T>
__device__ __forceinline__ void multiply_t(float (&acc)[kTTokens / 8][4], const TRing& ring, const uint4* va, int warp,
                                           int lane) {
  uint4 now[4], next[4];
  if (ring.count > 0) load_va(next, va, ring.first, warp, lane);
  for (int i = 0; i < ring.count; ++i) {
    const int slot = i % kTStages;
#pragma unroll
    for (int s = 0; s < 4; ++s) now[s] = next[s];
    barrier_wait(&ring.barriers.full[slot], i / kTStages % 2);
    const std::uint64_t x = swizzled_operand(ring.memory + slot * kTStageBytes);
    pin<kTTokens / 8>(acc);
    warpgroup_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s) warpgroup_dense<T>(acc, now[s], x + 2 * s);
    warpgroup_commit();
    if (i + 1 < ring.count) load_va(next, va, ring.first + i + 1, warp, lane);
    warpgroup_wait_until<0>();
    pin<kTTokens / 8>(acc);
    barrier_arrive_warp(&ring.barriers.empty[slot], lane);
  }
}

#endif  // SPARLOW_SM90

// Grid: (kManyInnerSplits, groups of kTTokens tokens, stages of ranks of all parts), clusters along the first.
template <typename T>
__global__ void __launch_bounds__(kTThreads, 1)
    many_t_kernel(const ManyInnerArgs a, const __grid_constant__ CUtensorMap x_map) {
#if SPARLOW_SM90
  extern __shared__ unsigned char raw[];
  __shared__ TBarriers barriers;
  unsigned char* shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.x;
  const int stages = a.steps / 2, first_token = static_cast<int>(blockIdx.y) * kTTokens;  // steps are of 32 columns
  const int first = stages * split / kManyInnerSplits, last = stages * (split + 1) / kManyInnerSplits;
  const TRing ring{shared, barriers, first, last - first};
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  wait_for_previous_kernel();
  allow_next_kernel();  // not earlier: who starts then may read what was there before
  auto* sums = reinterpret_cast<float*>(shared);
  float acc[kTTokens / 8][4] = {};
  if (warp < 4) {
    const uint4* va = a.va + (static_cast<std::size_t>(blockIdx.z) * 2 + warp / 2) * stages * 4 * 64;
    multiply_t<T>(acc, ring, va, warp, lane);
  } else if (lane == 0) {
    ring.fill(&x_map, first_token);
  }
  __syncthreads();  // the ring is drained; sums take its place
  if (warp < 4) {
#pragma unroll
    for (int t = 0; t < kTTokens / 8; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(8 * t + lane % 4 * 2 + i % 2) * kInnerStride + warp * 16 + lane / 4 + i / 2 * 8] = acc[t][i];
  }
  cluster_arrive(), cluster_wait();
  add_cluster<T, kTTokens, kTThreads>(a, sums, first_token, split, blockIdx.z, threadIdx.x);
  cluster_arrive_relaxed(), cluster_wait();  // nobody leaves while its sums are read
#endif
}

}  // namespace sparlow::kernels
