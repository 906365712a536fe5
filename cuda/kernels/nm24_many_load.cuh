// How a block of the many-token kernel gets its operands: a ring of stages of 64 columns and the threads that fill it.
// Blocks of a cluster that share x have the same tokens: each copies its share of x into all.
#pragma once

#include "nm24_many_work.cuh"
#include "nm24_warpgroup_many.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// Says that products are done with shared memory, which needs no fence; one for the cluster would take a microsecond.
__device__ __forceinline__ void barrier_arrive_in_cluster(Barrier* b, unsigned rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(address_in_cluster(b, rank)) : "memory");
}
// barrier_arrive_warp for all blocks of a cluster.
template <int kCluster>
__device__ __forceinline__ void barrier_arrive_warp_in_cluster(Barrier* b, int lane) {
  __syncwarp();
  for (int i = lane; i < kCluster * kWarpArrivals; i += 32) barrier_arrive_in_cluster(b, i % kCluster);
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
// Who copies what.
enum class ManyRole { all, x, values, positions };

template <typename Shape>
struct ManyBarriers {
  Barrier full[Shape::kStages], empty[Shape::kStages];
};

template <typename Shape>
struct ManyRing {
  unsigned char* memory;
  ManyBarriers<Shape>& barriers;

  __device__ __forceinline__ void init() const {
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(&barriers.full[s], Shape::kProducers);
      barrier_init(&barriers.empty[s], Shape::kWarps * Shape::kCluster * kWarpArrivals);
    }
    barrier_init_done();
  }
  __device__ __forceinline__ unsigned char* x(int slot) const { return memory + slot * Shape::kStageBytes; }
  __device__ __forceinline__ unsigned char* values(int slot) const { return x(slot) + Shape::kXBytes; }
  __device__ __forceinline__ unsigned char* positions(int slot) const { return values(slot) + Shape::kValueBytes; }
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

// One thread of each role. Rows and ranks past the end come as zeros.
template <typename Shape, ManyRole kRole>
struct ManyProducer {
  static constexpr bool kAll = kRole == ManyRole::all, kX = kAll || kRole == ManyRole::x;
  static constexpr bool kValues = kAll || kRole == ManyRole::values, kPositions = kAll || kRole == ManyRole::positions;
  const ManyArgs& a;
  const ManyMaps& maps;
  const ManyRing<Shape>& ring;
  ManySchedule<Shape> schedule;
  ManyWork work{};
  Turn<Shape::kStages> turn{};

  // Waits for room for what this thread copies.
  __device__ __forceinline__ Barrier* next_stage(int x_bytes, int value_bytes, int position_bytes) {
    Barrier* full = &ring.barriers.full[turn.slot];
    barrier_wait(&ring.barriers.empty[turn.slot], turn.parity ^ 1);
    barrier_expect(full, (kX ? x_bytes : 0) + (kValues ? value_bytes : 0) + (kPositions ? position_bytes : 0));
    return full;
  }
  __device__ __forceinline__ int x_bytes() const { return Shape::kCluster * a.x_rows * 128; }
  __device__ __forceinline__ void copy_x(const CUtensorMap* map, int column, Barrier* full) {
    unsigned char* x = ring.x(turn.slot);
    if constexpr (Shape::kCluster == 1) tensor_copy(x, map, column, work.first_token, full);
    else
      tensor_copy_to_cluster(x + schedule.rank * a.x_rows * 128, map, column,
                             work.first_token + schedule.rank * a.x_rows, full, (1 << Shape::kCluster) - 1);
  }
  __device__ __forceinline__ void copy_columns(int i) {
    const int block = i / 2, half = i % 2;
    Barrier* full = next_stage(x_bytes(), Shape::kValueBytes, Shape::kPositionBytes);
    if constexpr (kX) copy_x(&maps.x, i * kManyColumns, full);
    if constexpr (kValues)
      tensor_copy_boxes(ring.values(turn.slot), &maps.values, 0, 0, 0, work.first_row_block,
                        block * kBlockPairs + half * 4, full);
    if constexpr (kPositions)
      tensor_copy_lines(ring.positions(turn.slot), &maps.positions, block * kBlockLines + kValueLines + half * 2,
                        work.first_row_block, full);
    turn.next();
  }
  // t is a sum of two: as many columns of either.
  __device__ __forceinline__ void copy_ranks(int step, int half) {
    Barrier* full = next_stage(x_bytes(), Shape::kValueBytes, 0);
    if constexpr (kX) copy_x(&maps.t, work.part * a.t_columns + 2 * step * kRankBlock + half * kRankStage, full);
    if constexpr (kValues)
      tensor_copy_lines(ring.values(turn.slot), &maps.u, (step + half * kRankStageSteps) * kRankStepLines,
                        work.first_row_block, full);
    turn.next();
  }
  __device__ __forceinline__ void run() {
    // The kernel that made t and the one for the other rows let this one start once x was there.
    if (kX && a.rank_steps == 0 && !a.is_rest) wait_for_previous_kernel();
    if (kX && a.rest_follows) allow_next_kernel();
    while (schedule.next(work)) {
      for (int i = work.first_column; i < work.last_column; ++i) copy_columns(i);
      if (kX && work.rank_steps) wait_for_previous_kernel();
      for (int step = 0; step < work.rank_steps; step += kRankTiles) copy_ranks(step, 0), copy_ranks(step, 1);
    }
    if (kX && a.is_rest) wait_for_previous_kernel();  // so that who comes after both need wait for this one alone
  }
};

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
