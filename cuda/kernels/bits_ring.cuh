// What one warp reads of a bitmap: every `stride`-th block of a row of blocks, whose sizes differ.
#pragma once

#include "bits_args.cuh"
#include "nm24_ring.cuh"

namespace sparlow::kernels {

template <int kStages>
struct BitsRing {
  const BitsArgs& a;
  const std::uint32_t* places;  // of the first block and, so far, of the next one to be found
  int stride, count;            // of column blocks
  int lane;
  RingStages stages;
  uint2 next{};  // where the next block to be read begins and ends
#if SPARLOW_SM90
  std::uint64_t policy = evict_first();
#endif

  __device__ __forceinline__ uint2 find(int i) {
    const std::uint32_t* at = places;
    places += stride;
    return i < count ? make_uint2(__ldg(at), __ldg(at + 1)) : make_uint2(0, 0);
  }
  __device__ __forceinline__ void fill(int to, uint2 place) {
    const int bytes = min(static_cast<int>(place.y - place.x) * 16, a.block_capacity);
    const uint4* from = a.common.weights + place.x;
#if SPARLOW_SM90
    if (lane == 0) {
      barrier_expect(&stages.full[to], bytes);
      bulk_copy(stages.stage(to), from, bytes, &stages.full[to], policy);
    }
#else
    for (int unit = lane; unit < bytes / 16; unit += 32) copy_16(stages.stage(to) + unit * 16, from + unit, 16);
    barrier_arrive_after_copies(&stages.full[to]);
#endif
  }
  // Asks for all places at once: they are as far away as the blocks.
  __device__ __forceinline__ void start() {
    uint2 early[kStages];
#pragma unroll
    for (int s = 0; s < kStages; ++s) early[s] = find(s);
    stages.init(SPARLOW_SM90 ? 1 : 32, lane);
#pragma unroll
    for (int s = 0; s < kStages; ++s)
      if (s < count) fill(s, early[s]);
    next = find(kStages);
  }
  __device__ __forceinline__ const unsigned char* acquire() { return stages.acquire(); }
  // Done with block i.
  __device__ __forceinline__ void release(int i) {
    __syncwarp();
    if (i + kStages < count) {
      fill(stages.slot, next);
      next = find(i + kStages + 1);
    }
    stages.advance();
  }
};

}  // namespace sparlow::kernels
