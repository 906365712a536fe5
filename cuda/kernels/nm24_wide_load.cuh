// How a block of the wide kernel gets its operands. One ring stage is 128 columns: of x, then of the weights; after the
// columns come stages of 64 ranks with rows of u in place of weights. t has a place of its own, so that it may come
// long before its turn.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

constexpr int kStageRankSteps = 4;

template <int kTiles_, int kGroups_, int kStages_>
struct WideShape {
  static constexpr int kTiles = kTiles_, kGroups = kGroups_, kStages = kStages_;
  static constexpr int kInnerTiles = kTiles < 4 ? kTiles : 4;
  static constexpr int kWarps = 4 * kGroups, kThreads = (kWarps + 2) * 32;  // one fills the ring, one fetches t
  static constexpr int kRows = 64 * kGroups, kRowBlocks = kRows / kRowBlock, kTokens = 8 * kTiles;
  static constexpr int kHalfXBytes = kTokens * 128, kXBytes = 2 * kHalfXBytes;
  static constexpr int kWeightBytes = kRowBlocks * kBlockBytes, kStageBytes = kXBytes + kWeightBytes;
  static constexpr int kStride = kRows + 4;  // of sums: lanes of a quad fall into different banks
  static constexpr int kSumBytes = kTokens * kStride * 4, kInboxBytes = kTokens * kRows * 4;
  static constexpr int kRingBytes =
      kStages * kStageBytes > kSumBytes + kInboxBytes ? kStages * kStageBytes : kSumBytes + kInboxBytes;
  static constexpr int kTBytes = kStageRankSteps * kTiles * 512;
  static constexpr int kSharedBytes = kRingBytes + kTBytes + 1024;  // the ring starts at a multiple of 1024
  static constexpr int kBlocksPerSm = kSharedBytes <= 115200 ? 2 : 1;
  static_assert(kStageRankSteps * 1024 <= kBlockBytes);
};

// A block's share of the stages: columns, then ranks.
struct WideWork {
  int first, count;
  int columns;  // how many of them are columns
  int column_blocks;
  int token_group, first_row_block;

  __device__ __forceinline__ int rank_step(int i) const { return (first + i - column_blocks) * kStageRankSteps; }
};

#if SPARLOW_SM90

// The ring's barriers, and those of t.
template <int kStages>
struct WideBarriers {
  Barrier full[kStages], empty[kStages], t_full, t_empty;
};

template <typename Shape>
struct WideRing {
  unsigned char* memory;
  WideBarriers<Shape::kStages>& barriers;

  __device__ __forceinline__ void init() const {
    for (int s = 0; s < Shape::kStages; ++s)
      barrier_init(&barriers.full[s], 1), barrier_init(&barriers.empty[s], Shape::kWarps * kWarpArrivals);
    barrier_init(&barriers.t_full, kWarpArrivals), barrier_init(&barriers.t_empty, Shape::kWarps * kWarpArrivals);
    barrier_init_done();
  }
  __device__ __forceinline__ unsigned char* stage(int i) const {
    return memory + i % Shape::kStages * Shape::kStageBytes;
  }
  __device__ __forceinline__ uint4* t() const { return reinterpret_cast<uint4*>(memory + Shape::kRingBytes); }
  __device__ __forceinline__ Barrier* full(int i) const { return &barriers.full[i % Shape::kStages]; }
  __device__ __forceinline__ Barrier* empty(int i) const { return &barriers.empty[i % Shape::kStages]; }
  __device__ __forceinline__ void wait_full(int i) const { barrier_wait(full(i), i / Shape::kStages % 2); }
  __device__ __forceinline__ void wait_empty(int i) const {
    if (i >= Shape::kStages) barrier_wait(empty(i), (i / Shape::kStages - 1) % 2);
  }
};

// One thread.
template <typename Shape>
struct WideProducer {
  const ForwardArgs& a;
  const CUtensorMap* x_map;
  const WideRing<Shape>& ring;
  const WideWork& work;
  std::uint64_t policy = evict_first();
  int last_row_block = blocks(a.d_out, kRowBlock) - 1;

  // Rows past the end are read again and not stored.
  __device__ __forceinline__ int row_block(int r) const { return min(work.first_row_block + r, last_row_block); }

  __device__ __forceinline__ void copy_weights(int i) const {
    barrier_expect(ring.full(i), Shape::kWeightBytes + 2 * a.x_rows * 128);
    for (int r = 0; r < Shape::kRowBlocks; ++r)
      bulk_copy(ring.stage(i) + Shape::kXBytes + r * kBlockBytes,
                a.weights + (static_cast<std::size_t>(row_block(r)) * a.column_blocks + work.first + i) * kBlockUnits,
                kBlockBytes, ring.full(i), policy);
  }
  __device__ __forceinline__ void copy_x(int i) const {
    for (int half = 0; half < 2; ++half)
      tensor_copy(ring.stage(i) + half * Shape::kHalfXBytes, x_map, (work.first + i) * kColumnBlock + 64 * half,
                  work.token_group * Shape::kTokens, ring.full(i));
  }
  __device__ __forceinline__ void copy_u(int i) const {
    const int steps = min(a.rank_steps - work.rank_step(i), kStageRankSteps);
    barrier_expect(ring.full(i), steps * Shape::kRowBlocks * 1024);
    for (int r = 0; r < Shape::kRowBlocks; ++r)
      bulk_copy(ring.stage(i) + Shape::kXBytes + r * kBlockBytes,
                a.u + (static_cast<std::size_t>(row_block(r)) * a.rank_steps + work.rank_step(i)) * 64, steps * 1024,
                ring.full(i), policy);
  }
  __device__ __forceinline__ void run() const {
    const int early = min(work.columns, Shape::kStages);
    for (int i = 0; i < early; ++i) copy_weights(i);
    wait_for_previous_kernel();
    for (int i = 0; i < early; ++i) copy_x(i);
    for (int i = early; i < work.count; ++i) {
      ring.wait_empty(i);
      if (i < work.columns) copy_weights(i), copy_x(i);
      else copy_u(i);
    }
  }
};

// One warp carries t from the mailboxes to its place, for one stage of ranks after the other. Answers what
// finish_with_t did.
template <typename Shape>
__device__ __forceinline__ unsigned carry_t(const ForwardArgs& a, const WideRing<Shape>& ring, const WideWork& work,
                                            unsigned stamp, int lane) {
  constexpr int kAtOnce = 4;  // units of one step and tile
  for (int i = work.columns, turn = 0; i < work.count; ++i, ++turn) {
    const int units = min(a.rank_steps - work.rank_step(i), kStageRankSteps) * Shape::kTiles;
    const Mailbox* box =
        a.sums_of(work.token_group, a.part_of(work.first_row_block) * a.rank_steps + work.rank_step(i)) + lane;
    if (turn > 0) barrier_wait(&ring.barriers.t_empty, (turn - 1) % 2);
    for (int unit = 0; unit < units; unit += kAtOnce) {
      uint2 found[2 * kAtOnce];
      for (bool all = false; !all;) {
        all = true;
#pragma unroll
        for (int k = 0; k < 2 * kAtOnce; ++k)
          if (unit + k / 2 < units) all = take(found[k], box + (unit + k / 2) * 64 + k % 2 * 32, stamp) && all;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        if (unit + k < units)
          ring.t()[(unit + k) * 32 + lane] =
              make_uint4(found[2 * k].x, found[2 * k].y, found[2 * k + 1].x, found[2 * k + 1].y);
    }
    barrier_arrive_warp(&ring.barriers.t_full, lane);
  }
  return lane == 0 && a.rank_steps ? finish_with_t(a) : ~0u;
}

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
