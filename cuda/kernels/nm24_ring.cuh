// What one warp reads: every `stride`-th column block of 32 rows of s, with the 128 columns of x that go with
// it. Asynchronous copies fill a ring in shared memory, which holds the bytes in flight: registers would not suffice.
// No other warp takes part, so the loop over a ring needs no barrier between warps.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

struct WarpRing {
  const ForwardArgs& a;
  const uint4* weights;      // of the row block
  int first, stride, count;  // column blocks
  int first_token, tokens;
  unsigned char* memory;
  int stages;
  Barrier* full;
  int lane;
  int slot = 0;
  unsigned parity = 0;
#if SPARLOW_SM90
  std::uint64_t policy = evict_first();
#endif

  static SPARLOW_HD int stage_bytes(int tokens) { return kBlockBytes + tokens * kXStride; }

  __device__ __forceinline__ unsigned char* stage(int i) { return memory + i * stage_bytes(tokens); }

  __device__ __forceinline__ void fill_weights(int to, int i) {
    const uint4* from = weights + static_cast<std::size_t>(first + i * stride) * kBlockUnits;
#if SPARLOW_SM90
    if (lane == 0) {
      barrier_expect(&full[to], kBlockBytes);
      bulk_copy(stage(to), from, kBlockBytes, &full[to], policy);
    }
#else
    for (int unit = lane; unit < kBlockUnits; unit += 32) copy_16(stage(to) + unit * 16, from + unit, 16);
#endif
  }
  __device__ __forceinline__ void fill_x(int to, int i) {
    copy_x(stage(to) + kBlockBytes, a, first_token, tokens, first + i * stride, lane);
    barrier_arrive_after_copies(&full[to]);
  }
  // Weights do not depend on the kernel before this one; x does.
  __device__ __forceinline__ void start() {
    if (lane == 0) {
      for (int s = 0; s < stages; ++s) barrier_init(&full[s], 32 + SPARLOW_SM90);
#if SPARLOW_SM90
      barrier_init_done();
#endif
    }
    __syncwarp();
    const int early = min(stages, count);
    for (int i = 0; i < early; ++i) fill_weights(i, i);
    wait_for_previous_kernel();
    for (int i = 0; i < early; ++i) fill_x(i, i);
  }
  __device__ __forceinline__ const unsigned char* acquire() {
    barrier_wait(&full[slot], parity);
    return stage(slot);
  }
  // Done with block i.
  __device__ __forceinline__ void release(int i) {
    __syncwarp();
    if (i + stages < count) fill_weights(slot, i + stages), fill_x(slot, i + stages);
    if (++slot == stages) slot = 0, parity ^= 1;
  }
};

}  // namespace sparlow::kernels
