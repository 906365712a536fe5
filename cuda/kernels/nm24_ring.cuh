// What one warp reads: every `stride`-th column block of some rows (of s or v), with the 128 columns of x that go with
// it. Asynchronous copies fill a ring in shared memory, which holds the bytes in flight: registers would not suffice.
// No other warp takes part, so the loop over a ring needs no barrier between warps.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

struct WarpRing {
  const ForwardArgs& a;
  const unsigned char* rows_from;  // the rows' column block 0
  int block_bytes;
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

  static SPARLOW_HD int stage_bytes(int block_bytes, int tokens) { return block_bytes + tokens * kXStride; }

  __device__ __forceinline__ unsigned char* stage(int i) { return memory + i * stage_bytes(block_bytes, tokens); }

  __device__ __forceinline__ void fill_rows(int to, int i) {
    const unsigned char* from = rows_from + static_cast<std::size_t>(first + i * stride) * block_bytes;
#if SPARLOW_SM90
    if (lane == 0) {
      barrier_expect(&full[to], block_bytes);
      bulk_copy(stage(to), from, block_bytes, &full[to], policy);
    }
#else
    for (int byte = lane * 16; byte < block_bytes; byte += 512) copy_16(stage(to) + byte, from + byte, 16);
#endif
  }
  __device__ __forceinline__ void fill_x(int to, int i) {
    copy_x(stage(to) + block_bytes, a, first_token, tokens, first + i * stride, lane);
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
    for (int i = 0; i < early; ++i) fill_rows(i, i);
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
    if (i + stages < count) fill_rows(slot, i + stages), fill_x(slot, i + stages);
    if (++slot == stages) slot = 0, parity ^= 1;
  }
};

}  // namespace sparlow::kernels
