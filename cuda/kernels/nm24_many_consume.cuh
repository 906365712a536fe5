// The warps that multiply, 16 rows each: with weights in registers and x in shared memory.
#pragma once

#include "nm24_many_load.cuh"
#include "nm24_many_store.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// A consumer warp.
template <typename T, typename Shape>
struct ManyConsumer {
  const ManyArgs& a;
  const ManyRings<Shape>& rings;
  int warp, lane;
  float acc[Shape::kTiles][4] = {};
  Turn<Shape::kXStages> x_turn{}, done_turn{};
  Turn<Shape::kWeightStages> weights_turn{};

  __device__ __forceinline__ const uint4* acquire_weights() {
    barrier_wait(&rings.barriers.weights_full[weights_turn.slot], weights_turn.parity);
    return reinterpret_cast<const uint4*>(rings.weights(weights_turn.slot) + warp / 2 * kBlockBytes) + lane;
  }
  // Only once products with them are started: while products read shared memory a load from there may wait longer than
  // it takes to signal the producer and to copy the next weights to its place.
  __device__ __forceinline__ void release_weights() {
    barrier_arrive_warp(&rings.barriers.weights_empty[weights_turn.slot], lane);
    weights_turn.next();
  }
  __device__ __forceinline__ std::uint64_t acquire_x() {
    barrier_wait(&rings.barriers.x_full[x_turn.slot], x_turn.parity);
    const std::uint64_t operand = swizzled_operand(rings.x(x_turn.slot));
    x_turn.next();
    return operand;
  }
  __device__ __forceinline__ void release_x() {
    Barrier* empty = &rings.barriers.x_empty[done_turn.slot];
    if constexpr (Shape::kCluster == 1) {
      if (lane == 0) barrier_arrive(empty);
    } else if (lane < Shape::kCluster) {
      barrier_arrive_in_cluster(empty, lane);
    }
    done_turn.next();
  }
  __device__ __forceinline__ void start(const uint4& first, const uint4& second, std::uint32_t positions,
                                        std::uint64_t x) {
    pin<Shape::kTiles>(acc);
    warpgroup_fence();
    warpgroup_sparse<T, 0>(acc, first, x, positions);
    warpgroup_sparse<T, 1>(acc, second, x + 4, positions);
    warpgroup_commit();
  }
  // All products but the two started last.
  __device__ __forceinline__ void finish_others() {
    warpgroup_wait_until<1>();
    pin<Shape::kTiles>(acc);
  }
  // Of 128 columns.
  struct Weights {
    uint4 values[4];
    uint2 positions;

    __device__ __forceinline__ void keep() const {
#pragma unroll
      for (const uint4& value : values) keep_until_here(value);
      keep_until_here(positions);
    }
  };
  // An operand in registers holds the warp up, so that only the other group hides what a warp does between products:
  // four follow each other where x need not be given back early, to the blocks of a cluster. The last two of the
  // weights before still run when these begin.
  __device__ __forceinline__ void block(Weights& now, const Weights& before, bool started) {
    constexpr bool kTogether = Shape::kCluster == 1;
    const uint4* w = acquire_weights();
    now.positions = reinterpret_cast<const uint2*>(w + kValueUnits)[warp % 2];
#pragma unroll
    for (int s = 0; s < 4; ++s) now.values[s] = w[(warp % 2 * 4 + s) * 32];
    const std::uint64_t first = acquire_x();
    std::uint64_t second = kTogether ? acquire_x() : 0;
    start(now.values[0], now.values[1], now.positions.x, first);
    if constexpr (!kTogether) {
      finish_others();
      if (started) release_x();
      second = acquire_x();
    }
    start(now.values[2], now.values[3], now.positions.y, second);
    release_weights();
    finish_others();
    before.keep();
    if (kTogether && started) release_x();
    release_x();
  }
  __device__ __forceinline__ void columns(int count) {
    if (count == 0) return;
    Weights even{}, odd{};
    int i = 0;
    for (; i + 1 < count; i += 2) block(even, odd, i > 0), block(odd, even, true);
    if (i < count) block(even, odd, i > 0);
    finish_columns();
    even.keep(), odd.keep();
  }
  __device__ __forceinline__ void finish_columns() {
    warpgroup_wait_until<0>();
    pin<Shape::kTiles>(acc);
    release_x();
  }
  __device__ __forceinline__ void multiply(const ManyWork& work) {
#pragma unroll
    for (int i = 0; i < 4 * Shape::kTiles; ++i) acc[i / 4][i % 4] = 0;
    columns(work.last_column - work.first_column);
    ranks(work.rank_steps);
  }
  __device__ __forceinline__ void finish(const ManyWork& work, const ManySchedule<Shape>& schedule) {
    if (schedule.done()) {
      meet(1, 256);  // the rings are drained: there is room for all at once
      ManyStore<T, Shape, Shape::kTiles>{a, rings.x(0) + warp / 4 * Shape::kXBytes, warp, lane}.run(acc, work);
    } else {
      unsigned char* piece = rings.memory + Shape::kRingBytes + warp / 4 * Shape::kStoreBytes;
      ManyStore<T, Shape, Shape::kStoredTiles>{a, piece, warp, lane}.run(acc, work);
    }
  }
  __device__ __forceinline__ void ranks(int steps) {
    constexpr int kSteps = kRankStage / kRankBlock;
    for (int first = 0; first < steps; first += kSteps) {
      const uint4* u = acquire_weights() + warp % 2 * 32;
      uint4 rows[kSteps];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) rows[s] = first + s < steps ? u[2 * s * 32] : make_uint4(0, 0, 0, 0);
      const std::uint64_t high = acquire_x(), low = acquire_x();
      pin<Shape::kTiles>(acc);
      warpgroup_fence();
#pragma unroll
      for (int s = 0; s < kSteps; ++s)
        warpgroup_dense<T>(acc, rows[s], high + 2 * s), warpgroup_dense<T>(acc, rows[s], low + 2 * s);
      warpgroup_commit();
      warpgroup_wait_until<0>();
      pin<Shape::kTiles>(acc);
      for (const uint4& row : rows) keep_until_here(row);
      release_weights(), release_x(), release_x();
    }
  }
};

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
