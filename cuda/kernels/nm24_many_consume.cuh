// The warps that multiply, 16 rows each: with weights and x in shared memory.
#pragma once

#include "nm24_many_load.cuh"
#include "nm24_many_store.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// A consumer warp. Products of a step are started while those of the step before still run.
template <typename T, typename Shape>
struct ManyConsumer {
  const ManyArgs& a;
  const ManyRing<Shape>& ring;
  int warp, lane;
  float acc[Shape::kTiles][4] = {};
  Turn<Shape::kStages> turn{}, done_turn{};

  // The place of the next stage.
  __device__ __forceinline__ int acquire() {
    const int slot = turn.slot;
    barrier_wait(&ring.barriers.full[slot], turn.parity);
    turn.next();
    return slot;
  }
  // The oldest stage, whose products are done.
  __device__ __forceinline__ void release() {
    Barrier* empty = &ring.barriers.empty[done_turn.slot];
    if constexpr (Shape::kCluster == 1) barrier_arrive_warp(empty, lane);
    else barrier_arrive_warp_in_cluster<Shape::kCluster>(empty, lane);
    done_turn.next();
  }
  // Positions lie in registers while products run: two steps' take turns.
  struct Positions {
    std::uint32_t of[Shape::kStepStages];
    __device__ __forceinline__ void keep() const {
#pragma unroll
      for (std::uint32_t word : of) keep_until_here(word);
    }
  };
  template <int kCount>
  __device__ __forceinline__ void step(Positions& positions, const Positions& before, int to_release) {
    int slots[kCount];
#pragma unroll
    for (int s = 0; s < kCount; ++s) {
      slots[s] = acquire();
      positions.of[s] = reinterpret_cast<const std::uint32_t*>(ring.positions(slots[s]))[warp * 32 + lane];
    }
    pin<Shape::kTiles>(acc);
    warpgroup_fence();
#pragma unroll
    for (int s = 0; s < kCount; ++s) {
      const std::uint64_t weights = blocked_operand(ring.values(slots[s]) + warp / 4 * 1024, Shape::kChunkBytes);
      const std::uint64_t x = swizzled_operand(ring.x(slots[s]));
      warpgroup_sparse<T, 0>(acc, weights, x, positions.of[s]);
      warpgroup_sparse<T, 1>(acc, operand_after(weights, 2 * Shape::kChunkBytes / 16), operand_after(x, 4),
                             positions.of[s]);
    }
    warpgroup_commit();
    warpgroup_wait_until<1>();
    pin<Shape::kTiles>(acc);
    before.keep();
    for (int s = 0; s < to_release; ++s) release();
  }
  __device__ __forceinline__ void columns(int count) {
    constexpr int kTogether = Shape::kStepStages;
    if (count == 0) return;
    Positions even{}, odd{};
    int i = 0, held = 0;  // stages whose products run
    for (; i + 2 * kTogether <= count; i += 2 * kTogether, held = kTogether)
      step<kTogether>(even, odd, held), step<kTogether>(odd, even, kTogether);
    const bool whole = i + kTogether <= count;
    if (whole) step<kTogether>(even, odd, held), i += kTogether, held = kTogether;
    if (kTogether > 1 && i < count) {
      if (whole) step<1>(odd, even, held);
      else step<1>(even, odd, held);
      held = 1;
    }
    warpgroup_wait_until<0>();
    pin<Shape::kTiles>(acc);
    even.keep(), odd.keep();
    for (; held > 0; --held) release();
  }
  // Two stages: u of this warp's rows goes through registers.
  __device__ __forceinline__ void ranks() {
    const int first = acquire(), second = acquire();
    const int slots[2] = {first, second};
    uint4 rows[kRankTiles];
#pragma unroll
    for (int s = 0; s < kRankTiles; ++s) {
      const unsigned char* steps = ring.values(slots[s / kRankStageSteps]) + warp / 2 * (kRankStageSteps * 1024);
      rows[s] = reinterpret_cast<const uint4*>(steps)[(s % kRankStageSteps * 2 + warp % 2) * 32 + lane];
    }
    const std::uint64_t high = swizzled_operand(ring.x(first)), low = swizzled_operand(ring.x(second));
    pin<Shape::kTiles>(acc);
    warpgroup_fence();
#pragma unroll
    for (int s = 0; s < kRankTiles; ++s)
      warpgroup_dense<T>(acc, rows[s], high + 2 * s), warpgroup_dense<T>(acc, rows[s], low + 2 * s);
    warpgroup_commit();
    warpgroup_wait_until<0>();
    pin<Shape::kTiles>(acc);
    for (const uint4& row : rows) keep_until_here(row);
    release(), release();
  }
  __device__ __forceinline__ void multiply(const ManyWork& work) {
#pragma unroll
    for (int i = 0; i < 4 * Shape::kTiles; ++i) acc[i / 4][i % 4] = 0;
    columns(work.last_column - work.first_column);
    for (int step = 0; step < work.rank_steps; step += kRankTiles) ranks();
  }
  __device__ __forceinline__ void finish(const ManyWork& work, const ManySchedule<Shape>& schedule) {
    if (schedule.done()) {
      meet(1, 256);  // the ring is drained: there is room for all at once
      ManyStore<T, Shape, Shape::kTiles>{a, ring.x(warp / 4), warp, lane}.run(acc, work);
    } else {
      unsigned char* piece = ring.memory + Shape::kRingBytes + warp / 4 * Shape::kStoreBytes;
      ManyStore<T, Shape, Shape::kStoredTiles>{a, piece, warp, lane}.run(acc, work);
    }
  }
};

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
