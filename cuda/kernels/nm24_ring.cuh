// What one warp reads, through a ring of stages in shared memory that asynchronous copies fill: it holds the bytes in
// flight, registers would not suffice. No other warp takes part, so the loop over a ring needs no barrier between
// warps.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

// The stages and who waits for them.
struct RingStages {
  unsigned char* memory;
  int bytes, count;  // of a stage, stages
  Barrier* full;
  int slot = 0;
  unsigned parity = 0;

  __device__ __forceinline__ unsigned char* stage(int i) { return memory + i * bytes; }
  __device__ __forceinline__ void init(unsigned arrivals, int lane) {
    if (lane == 0) {
      for (int s = 0; s < count; ++s) barrier_init(&full[s], arrivals);
#if SPARLOW_SM90
      barrier_init_done();
#endif
    }
    __syncwarp();
  }
  __device__ __forceinline__ const unsigned char* acquire() {
    barrier_wait(&full[slot], parity);
    return stage(slot);
  }
  __device__ __forceinline__ void advance() {
    if (++slot == count) slot = 0, parity ^= 1;
  }
};

// Every `stride`-th column block of 32 rows of s, with the 128 columns of x that go with it.
struct WarpRing {
  const ForwardArgs& a;
  const uint4* weights;      // of the row block
  int first, stride, count;  // column blocks
  int first_token, tokens, lane;
  int block_units;
  RingStages stages;
#if SPARLOW_SM90
  std::uint64_t policy = evict_first();
#endif

  __device__ __forceinline__ WarpRing(const ForwardArgs& a, const uint4* weights, int first, int stride, int count,
                                      int first_token, int tokens, unsigned char* memory, int stages, Barrier* full,
                                      int lane, int block_units = kBlockUnits)
      : a(a),
        weights(weights),
        first(first),
        stride(stride),
        count(count),
        first_token(first_token),
        tokens(tokens),
        lane(lane),
        block_units(block_units),
        stages{memory, stage_bytes(tokens, block_units), stages, full} {}

  static SPARLOW_HD int stage_bytes(int tokens, int block_units = kBlockUnits) {
    return block_units * 16 + tokens * kXStride;
  }

  __device__ __forceinline__ void fill_weights(int to, int i) {
    const uint4* from = weights + static_cast<std::size_t>(first + i * stride) * block_units;
#if SPARLOW_SM90
    if (lane == 0) {
      barrier_expect(&stages.full[to], block_units * 16);
      bulk_copy(stages.stage(to), from, block_units * 16, &stages.full[to], policy);
    }
#else
    for (int unit = lane; unit < block_units; unit += 32) copy_16(stages.stage(to) + unit * 16, from + unit, 16);
#endif
  }
  __device__ __forceinline__ void fill_x(int to, int i) {
    copy_x(stages.stage(to) + block_units * 16, a, first_token, tokens, first + i * stride, lane);
    barrier_arrive_after_copies(&stages.full[to]);
  }
  // Weights do not depend on the kernel before this one; x does.
  __device__ __forceinline__ void start() {
    stages.init(32 + SPARLOW_SM90, lane);
    const int early = min(stages.count, count);
    for (int i = 0; i < early; ++i) fill_weights(i, i);
    wait_for_previous_kernel();
    for (int i = 0; i < early; ++i) fill_x(i, i);
  }
  __device__ __forceinline__ const unsigned char* acquire() { return stages.acquire(); }
  // Done with block i.
  __device__ __forceinline__ void release(int i) {
    __syncwarp();
    if (i + stages.count < count) fill_weights(stages.slot, i + stages.count), fill_x(stages.slot, i + stages.count);
    stages.advance();
  }
};

}  // namespace sparlow::kernels
