// How a block of the many-token kernel gets its operands: two rings, of x (64 columns a stage) and of weights (128),
// and the thread that fills them. Blocks of a cluster have the same tokens: each copies its share of x into all.
#pragma once

#include "nm24_many_inner.cuh"
#include "nm24_warpgroup_many.cuh"

namespace sparlow::kernels {

struct ManyArgs {
  const uint4* weights;
  const uint4* u;
  const void* bias;  // may be null
  void* y;           // [tokens, d_out]
  int d_out, tokens;
  int column_blocks;
  int rank_steps;  // of one part
  int t_columns;   // of one part of t, as many_inner_kernel leaves it
  int part_end[kMaxParts - 1];
};

constexpr int kManyBand = 8;  // token tiles that share a sweep over the rows

// Blocks of a cluster share x (kCluster) or split the columns (kSplits).
template <int kTokens_, int kCluster_, int kSplits_, int kXStages_, int kWeightStages_>
struct ManyShape {
  static constexpr int kTokens = kTokens_, kCluster = kCluster_, kSplits = kSplits_;
  static constexpr int kXStages = kXStages_, kWeightStages = kWeightStages_;
  static_assert(kCluster == 1 || kSplits == 1);
  // Tiles of 128 tokens leave room on a multiprocessor for a block of the kernel before, which makes t meanwhile.
  static constexpr bool kSmall = kTokens == 128;
  static constexpr int kTiles = kTokens / 8, kWarps = 8, kThreads = (kWarps + 4) * 32;
  static constexpr int kXBytes = kTokens * 128, kRowBlocks = kManyRows / kRowBlock;
  static constexpr int kWeightBytes = kRowBlocks * kBlockBytes;
  static constexpr int kSharedBytes = kXStages * kXBytes + kWeightStages * kWeightBytes + 1024;
  static constexpr int kSumStride = kManyRows + 4;             // lanes of a quad fall into different banks
  static_assert(kSharedBytes <= 227 * 1024 && kXStages >= 2);  // sums take the place of two stages of x,
  static_assert(kSplits == 1 || kTokens * kSumStride * 4 <= kSharedBytes - 1024);  // or of all
};

// Where a block stands, and its share of the columns and ranks.
struct ManyWork {
  int first_row_block, first_token, part;
  int first_column, last_column;  // blocks
  int rank_steps;
  unsigned rank;  // in the cluster
};

#if SPARLOW_SM90

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Says that products are done with shared memory, which needs no fence; one for the cluster would take a microsecond.
__device__ __forceinline__ void barrier_arrive_in_cluster(Barrier* b, unsigned rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address_in_cluster(b, rank)) : "memory");
}
// To the same place in every block of `blocks`, one bit each; bytes count towards the barrier of each.
__device__ __forceinline__ void tensor_copy_to_cluster(void* shared, const CUtensorMap* map, int column, int row,
                                                       Barrier* b, std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(b)), "h"(blocks)
      : "memory");
}
template <int kRegisters>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
__device__ __forceinline__ void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// Four 8 x 8 matrices, transposed: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices(void* address, const uint4& r) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(address)),
               "r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w)
               : "memory");
}

template <typename Shape>
struct ManyBarriers {
  Barrier x_full[Shape::kXStages], x_empty[Shape::kXStages];
  Barrier weights_full[Shape::kWeightStages], weights_empty[Shape::kWeightStages];
};

// Stage i of either ring: of x two for each of the weights.
template <typename Shape>
struct ManyRings {
  unsigned char* memory;
  ManyBarriers<Shape>& barriers;

  __device__ __forceinline__ void init() const {
    for (int s = 0; s < Shape::kXStages; ++s)
      barrier_init(&barriers.x_full[s], 1), barrier_init(&barriers.x_empty[s], Shape::kWarps * Shape::kCluster);
    for (int s = 0; s < Shape::kWeightStages; ++s)
      barrier_init(&barriers.weights_full[s], 1),
          barrier_init(&barriers.weights_empty[s], Shape::kWarps * kWarpArrivals);
    barrier_init_done();
  }
  __device__ __forceinline__ unsigned char* x(int slot) const { return memory + slot * Shape::kXBytes; }
  __device__ __forceinline__ unsigned char* weights(int slot) const {
    return memory + Shape::kXStages * Shape::kXBytes + slot * Shape::kWeightBytes;
  }
};

// A place in a ring and how often it came round.
template <int kStages>
struct Turn {
  int slot = 0;
  unsigned parity = 0;
  __device__ __forceinline__ void next() {
    if (++slot == kStages) slot = 0, parity ^= 1;
  }
};

// One thread.
template <typename Shape>
struct ManyProducer {
  const ManyArgs& a;
  const CUtensorMap *x_map, *t_map;
  const ManyRings<Shape>& rings;
  const ManyWork& work;
  Turn<Shape::kXStages> x_turn{};
  Turn<Shape::kWeightStages> weights_turn{};
  int last_row_block = blocks(a.d_out, kRowBlock) - 1;

  // Rows past the end are read again and not stored. from: of the first row block; stride: units to the next.
  __device__ __forceinline__ void copy_rows(const uint4* from, std::size_t stride, int bytes) {
    const int slot = weights_turn.slot;
    Barrier* full = &rings.barriers.weights_full[slot];
    barrier_wait(&rings.barriers.weights_empty[slot], weights_turn.parity ^ 1);
    barrier_expect(full, Shape::kRowBlocks * bytes);
    for (int r = 0; r < Shape::kRowBlocks; ++r)
      bulk_copy(rings.weights(slot) + r * kBlockBytes, from + min(work.first_row_block + r, last_row_block) * stride,
                bytes, full);
    weights_turn.next();
  }
  __device__ __forceinline__ void copy_x(const CUtensorMap* map, int column) {
    constexpr int kShare = Shape::kTokens / Shape::kCluster;
    const int slot = x_turn.slot;
    Barrier* full = &rings.barriers.x_full[slot];
    barrier_wait(&rings.barriers.x_empty[slot], x_turn.parity ^ 1);
    barrier_expect(full, Shape::kXBytes);
    if constexpr (Shape::kCluster == 1) tensor_copy(rings.x(slot), map, column, work.first_token, full);
    else
      tensor_copy_to_cluster(rings.x(slot) + work.rank * kShare * 128, map, column,
                             work.first_token + work.rank * kShare, full, (1 << Shape::kCluster) - 1);
    x_turn.next();
  }
  __device__ __forceinline__ void run() {
    if (a.rank_steps == 0) wait_for_previous_kernel();  // else it made t, and let this one start once x was there
    for (int i = work.first_column; i < work.last_column; ++i) {
      copy_rows(a.weights + static_cast<std::size_t>(i) * kBlockUnits,
                static_cast<std::size_t>(a.column_blocks) * kBlockUnits, kBlockBytes);
      copy_x(x_map, i * kColumnBlock), copy_x(x_map, i * kColumnBlock + 64);
    }
    if (work.rank_steps) wait_for_previous_kernel();
    for (int step = 0; step < work.rank_steps; step += kRankStage / kRankBlock) {
      const int column = work.part * a.t_columns + step * kRankBlock;
      copy_rows(a.u + step * 64, static_cast<std::size_t>(a.rank_steps) * 64,
                min(a.rank_steps - step, kRankStage / kRankBlock) * 1024);
      copy_x(t_map, column);
    }
  }
};

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
