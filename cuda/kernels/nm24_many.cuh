// y = x sᵀ + t uᵀ + bias for many tokens (sm_90a), bound by the matrix units: a block has 128 rows of y for 128 or 256
// tokens. t = x vᵀ comes from a kernel before, as two 16-bit numbers whose sum it is.
//
// Two warpgroups multiply, 64 rows each, with weights in registers and x in shared memory; one thread fills both rings.
// The two blocks of a cluster have the same tokens and copy one half of x each into both.
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

constexpr int kManyRows = 128, kManyBand = 8;  // token tiles that share a sweep over the rows

template <int kTokens_, int kCluster_, int kXStages_, int kWeightStages_>
struct ManyShape {
  static constexpr int kTokens = kTokens_, kCluster = kCluster_, kXStages = kXStages_, kWeightStages = kWeightStages_;
  static constexpr int kTiles = kTokens / 8, kWarps = 8, kThreads = (kWarps + 4) * 32;
  static constexpr int kXBytes = kTokens * 128, kRowBlocks = kManyRows / kRowBlock;
  static constexpr int kWeightBytes = kRowBlocks * kBlockBytes;
  static constexpr int kSharedBytes = kXStages * kXBytes + kWeightStages * kWeightBytes + 1024;
  static_assert(kSharedBytes <= 227 * 1024 && kXStages >= 2);  // sums take the place of two stages of x
};

// Where a block stands.
struct ManyWork {
  int first_row_block, first_token, part;
  unsigned rank;  // in the cluster
};

#if SPARLOW_SM90

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void barrier_arrive_in_cluster(Barrier* b, unsigned rank) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(address_in_cluster(b, rank))
               : "memory");
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
      barrier_init(&barriers.weights_full[s], 1), barrier_init(&barriers.weights_empty[s], Shape::kWarps);
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
  std::uint64_t policy = evict_first();
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
                bytes, full, policy);
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
    for (int i = 0; i < a.column_blocks; ++i) {
      copy_rows(a.weights + static_cast<std::size_t>(i) * kBlockUnits,
                static_cast<std::size_t>(a.column_blocks) * kBlockUnits, kBlockBytes);
      copy_x(x_map, i * kColumnBlock), copy_x(x_map, i * kColumnBlock + 64);
    }
    wait_for_previous_kernel();  // which made t; x is older
    for (int step = 0; step < a.rank_steps; step += kRankStage / kRankBlock) {
      const int column = work.part * a.t_columns + step / (kRankStage / kRankBlock) * 2 * kRankStage;
      copy_rows(a.u + step * 64, static_cast<std::size_t>(a.rank_steps) * 64,
                min(a.rank_steps - step, kRankStage / kRankBlock) * 1024);
      copy_x(t_map, column), copy_x(t_map, column + kRankStage);
    }
  }
};

// A consumer warp.
template <typename T, typename Shape>
struct ManyConsumer {
  const ManyRings<Shape>& rings;
  int warp, lane;
  float acc[Shape::kTiles][4] = {};
  Turn<Shape::kXStages> x_turn{}, done_turn{};
  Turn<Shape::kWeightStages> weights_turn{};

  __device__ __forceinline__ const uint4* acquire_weights() {
    barrier_wait(&rings.barriers.weights_full[weights_turn.slot], weights_turn.parity);
    return reinterpret_cast<const uint4*>(rings.weights(weights_turn.slot) + warp / 2 * kBlockBytes) + lane;
  }
  __device__ __forceinline__ void release_weights() {
    __syncwarp();
    if (lane == 0) barrier_arrive(&rings.barriers.weights_empty[weights_turn.slot]);
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
  // Products run on while the next weights are read: at most one group is behind.
  __device__ __forceinline__ void half(const uint4& first, const uint4& second, std::uint32_t positions, bool started) {
    const std::uint64_t x = acquire_x();
    pin<Shape::kTiles>(acc);
    warpgroup_fence();
    warpgroup_sparse<T, 0>(acc, first, x, positions);
    warpgroup_sparse<T, 1>(acc, second, x + 4, positions);
    warpgroup_commit();
    warpgroup_wait_until<1>();
    pin<Shape::kTiles>(acc);
    if (started) release_x();
  }
  __device__ __forceinline__ void block(uint4 (&values)[4], bool started) {
    const uint4* w = acquire_weights();
    const uint2 positions = reinterpret_cast<const uint2*>(w + kValueUnits)[warp % 2];
#pragma unroll
    for (int s = 0; s < 4; ++s) values[s] = w[(warp % 2 * 4 + s) * 32];
    release_weights();
    half(values[0], values[1], positions.x, started);
    half(values[2], values[3], positions.y, true);
  }
  __device__ __forceinline__ void columns(int count) {
    uint4 even[4], odd[4];  // the products still running read the other one
    int i = 0;
    for (; i + 1 < count; i += 2) block(even, i > 0), block(odd, true);
    if (i < count) block(even, i > 0);
    warpgroup_wait_until<0>();
    pin<Shape::kTiles>(acc);
    release_x();
  }
  __device__ __forceinline__ void ranks(int steps) {
    constexpr int kSteps = kRankStage / kRankBlock;
    for (int first = 0; first < steps; first += kSteps) {
      const uint4* u = acquire_weights() + warp % 2 * 32;
      uint4 rows[kSteps];
#pragma unroll
      for (int s = 0; s < kSteps; ++s) rows[s] = first + s < steps ? u[2 * s * 32] : make_uint4(0, 0, 0, 0);
      release_weights();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::uint64_t t = acquire_x();
        pin<Shape::kTiles>(acc);
        warpgroup_fence();
#pragma unroll
        for (int s = 0; s < kSteps; ++s) warpgroup_dense<T>(acc, rows[s], t + 2 * s);
        warpgroup_commit();
        warpgroup_wait_until<0>();
        pin<Shape::kTiles>(acc);
        release_x();
      }
    }
  }
};

// Sums to 16 bits in shared memory, [token][64 rows], pieces of 16 bytes swapped so that banks differ.
template <typename T, typename Shape>
__device__ __forceinline__ void stage_sums(unsigned char* shared, const float (&acc)[Shape::kTiles][4],
                                           const ManyArgs& a, int first_row, int warp, int lane) {
  float bias[2] = {};
  if (a.bias)
    for (int i = 0; i < 2; ++i) {
      const int row = first_row + warp % 4 * 16 + lane / 4 + 8 * i;
      bias[i] = row < a.d_out ? to_float(static_cast<const T*>(a.bias)[row]) : 0.f;
    }
#pragma unroll
  for (int t = 0; t < Shape::kTiles; t += 2) {
    const int token = 8 * (t + lane / 16) + lane % 8, piece = warp % 4 * 2 + lane / 8 % 2;
    uint4 out;
    out.x = pack(from_float<T>(acc[t][0] + bias[0]), from_float<T>(acc[t][1] + bias[0]));
    out.y = pack(from_float<T>(acc[t][2] + bias[1]), from_float<T>(acc[t][3] + bias[1]));
    out.z = pack(from_float<T>(acc[t + 1][0] + bias[0]), from_float<T>(acc[t + 1][1] + bias[0]));
    out.w = pack(from_float<T>(acc[t + 1][2] + bias[1]), from_float<T>(acc[t + 1][3] + bias[1]));
    store_matrices(shared + token * 128 + (piece ^ token % 8) * 16, out);
  }
}
template <typename T, typename Shape>
__device__ __forceinline__ void store_sums_of_group(const unsigned char* shared, const ManyArgs& a, int first_row,
                                                    int first_token, int thread) {
  const int tokens = min(Shape::kTokens, a.tokens - first_token);
  for (int e = thread; e < tokens * 8; e += 128) {
    const int token = e / 8, piece = e % 8, row = first_row + piece * 8;
    const uint4 sums = *reinterpret_cast<const uint4*>(shared + token * 128 + (piece ^ token % 8) * 16);
    T* y = static_cast<T*>(a.y) + static_cast<std::size_t>(first_token + token) * a.d_out + row;
    if (a.d_out % 8 == 0 && row < a.d_out) *reinterpret_cast<uint4*>(y) = sums;
    else
      for (int i = 0; i < 8 && row + i < a.d_out; ++i) y[i] = reinterpret_cast<const T*>(&sums)[i];
  }
}

template <typename Shape>
__device__ __forceinline__ ManyWork many_work(const ManyArgs& a) {
  const int cluster = static_cast<int>(blockIdx.x) / Shape::kCluster;
  const int row_groups = blocks(blocks(a.d_out, kManyRows), Shape::kCluster);
  const int token_tiles = blocks(a.tokens, Shape::kTokens);
  const int band = cluster / (row_groups * kManyBand), rest = cluster - band * row_groups * kManyBand;
  const int width = min(kManyBand, token_tiles - band * kManyBand);
  ManyWork work{};
  work.rank = Shape::kCluster == 1 ? 0 : cluster_rank();
  work.first_row_block = (rest / width * Shape::kCluster + work.rank) * Shape::kRowBlocks;
  work.first_token = (band * kManyBand + rest % width) * Shape::kTokens;
  for (int i = 0; i < kMaxParts - 1; ++i) work.part += work.first_row_block >= a.part_end[i];
  return work;
}

#endif  // SPARLOW_SM90

template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    many_kernel(const ManyArgs a, const __grid_constant__ CUtensorMap x_map,
                const __grid_constant__ CUtensorMap t_map) {
#if SPARLOW_SM90
  extern __shared__ unsigned char raw[];
  __shared__ ManyBarriers<Shape> barriers;
  unsigned char* shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const ManyRings<Shape> rings{shared, barriers};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4;
  if (threadIdx.x == 0) rings.init();
  __syncthreads();
  if constexpr (Shape::kCluster > 1) cluster_arrive(), cluster_wait();
  const ManyWork work = many_work<Shape>(a);
  if (group == 2) {
    fewer_registers<40>();
    if (warp == 8 && lane == 0) ManyProducer<Shape>{a, &x_map, &t_map, rings, work}.run();
  } else {
    more_registers<232>();
    ManyConsumer<T, Shape> consumer{rings, warp, lane};
    consumer.columns(a.column_blocks);
    consumer.ranks(a.rank_steps);
    meet(1, 256);  // both groups are done with the rings
    const int first_row = work.first_row_block * kRowBlock + group * 64;
    unsigned char* mine = shared + group * Shape::kXBytes;
    stage_sums<T, Shape>(mine, consumer.acc, a, first_row, warp, lane);
    meet(2 + group, 128);
    store_sums_of_group<T, Shape>(mine, a, first_row, work.first_token, threadIdx.x % 128);
  }
  if constexpr (Shape::kCluster > 1) cluster_arrive(), cluster_wait();  // the other block may still signal here
#endif
}

}  // namespace sparlow::kernels
