// How a block of the many-token kernel gets its operands: two rings, of x (64 columns a stage) and of weights (128),
// and the thread that fills them. Blocks of a cluster have the same tokens: each copies its share of x into all.
#pragma once

#include "nm24_many_work.cuh"
#include "nm24_warpgroup_many.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

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
// Lines of packed operands (map_lines): from `line` on, of each row from `row` on.
__device__ __forceinline__ void tensor_copy_lines(void* shared, const CUtensorMap* map, int line, int row, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
          "r"(shared_address(shared)),
      "l"(map), "r"(0), "r"(line), "r"(row), "r"(shared_address(b))
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
  const ManyMaps& maps;
  const ManyRings<Shape>& rings;
  ManySchedule<Shape> schedule;
  ManyWork work{};
  Turn<Shape::kXStages> x_turn{};
  Turn<Shape::kWeightStages> weights_turn{};
  int last_row_block = blocks(a.d_out, kRowBlock) - 1;

  __device__ __forceinline__ Barrier* next_weights(int bytes) {
    Barrier* full = &rings.barriers.weights_full[weights_turn.slot];
    barrier_wait(&rings.barriers.weights_empty[weights_turn.slot], weights_turn.parity ^ 1);
    barrier_expect(full, bytes);
    return full;
  }
  // Rows past the end come as zeros and are not stored.
  __device__ __forceinline__ void copy_weights(int column) {
    Barrier* full = next_weights(Shape::kWeightBytes);
    tensor_copy_lines(rings.weights(weights_turn.slot), &maps.weights, column * kBlockLines, work.first_row_block,
                      full);
    weights_turn.next();
  }
  // Rows past the end are read again and not stored.
  __device__ __forceinline__ void copy_u(int step) {
    const int bytes = min(a.rank_steps - step, kRankStage / kRankBlock) * 1024;
    Barrier* full = next_weights(Shape::kRowBlocks * bytes);
    for (int r = 0; r < Shape::kRowBlocks; ++r) {
      const std::size_t row = min(work.first_row_block + r, last_row_block);
      bulk_copy(rings.weights(weights_turn.slot) + r * kBlockBytes, a.u + (row * a.rank_steps + step) * 64, bytes,
                full);
    }
    weights_turn.next();
  }
  __device__ __forceinline__ void copy_x(const CUtensorMap* map, int column) {
    const int slot = x_turn.slot;
    Barrier* full = &rings.barriers.x_full[slot];
    barrier_wait(&rings.barriers.x_empty[slot], x_turn.parity ^ 1);
    barrier_expect(full, Shape::kCluster * a.x_rows * 128);
    if constexpr (Shape::kCluster == 1) tensor_copy(rings.x(slot), map, column, work.first_token, full);
    else
      tensor_copy_to_cluster(rings.x(slot) + schedule.rank * a.x_rows * 128, map, column,
                             work.first_token + schedule.rank * a.x_rows, full, (1 << Shape::kCluster) - 1);
    x_turn.next();
  }
  __device__ __forceinline__ void columns() {
    for (int i = work.first_column; i < work.last_column; ++i)
      copy_weights(i), copy_x(&maps.x, i * kColumnBlock), copy_x(&maps.x, i * kColumnBlock + 64);
  }
  __device__ __forceinline__ void ranks() {
    for (int step = 0; step < work.rank_steps; step += kRankStage / kRankBlock) {
      const int column = work.part * a.t_columns + 2 * step * kRankBlock;
      copy_u(step), copy_x(&maps.t, column), copy_x(&maps.t, column + kRankStage);
    }
  }
  __device__ __forceinline__ void run() {
    // The kernel that made t and the one for the other rows let this one start once x was there.
    if (a.rank_steps == 0 && !a.is_rest) wait_for_previous_kernel();
    if (a.rest_follows) allow_next_kernel();
    while (schedule.next(work)) {
      columns();
      if (work.rank_steps) wait_for_previous_kernel();
      ranks();
    }
    if (a.is_rest) wait_for_previous_kernel();  // so that who comes after both need wait for this one alone
  }
};

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
