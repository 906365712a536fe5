// Second kernel of a forward pass for up to 16 tokens: y = x sᵀ + t uᵀ + bias, bound by reading s.
//
// A block has 32 rows; its warps take turns in blocks of 128 columns and add up at the end, so a weight is read by one
// warp only and the main loop needs no barrier between warps. Each warp owns a ring of shared memory that asynchronous
// copies fill: it holds the bytes in flight, for which registers would not suffice.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

// What one warp reads: every kWarps-th block of 32 x 128 weights with the 128 columns of x that go with it.
template <int kWarps, int kStages>
struct WarpRing {
  const ForwardArgs& a;
  const uint4* weights;  // of the row block
  int first, count;      // column blocks of this warp
  int first_token, rows;
  unsigned char* memory;
  int stage_bytes;
  Barrier* full;
  int lane;
#if SPARLOW_SM90
  std::uint64_t policy = evict_first();
#endif

  __device__ __forceinline__ void fill(int i) {
    unsigned char* to = memory + i % kStages * stage_bytes;
    Barrier* barrier = &full[i % kStages];
    const int column_block = first + i * kWarps;
    const uint4* from = weights + static_cast<std::size_t>(column_block) * kBlockUnits;
#if SPARLOW_SM90
    if (lane == 0) {
      barrier_expect(barrier, kBlockBytes);
      bulk_copy(to, from, kBlockBytes, barrier, policy);
    }
#else
    for (int u = lane; u < kBlockUnits; u += 32) copy_16(to + u * 16, from + u, 16);
#endif
    copy_x(to + kBlockBytes, a, first_token, rows, column_block, lane);
    barrier_arrive_after_copies(barrier);
  }
  __device__ __forceinline__ void start() {
    if (lane == 0) {
      for (int s = 0; s < kStages; ++s) barrier_init(&full[s], 32 + SPARLOW_SM90);
#if SPARLOW_SM90
      barrier_init_done();
#endif
    }
    __syncwarp();
    for (int i = 0; i < kStages && i < count; ++i) fill(i);
  }
  __device__ __forceinline__ const unsigned char* acquire(int i) {
    barrier_wait(&full[i % kStages], i / kStages % 2);
    return memory + i % kStages * stage_bytes;
  }
  __device__ __forceinline__ void release(int i) {
    __syncwarp();
    if (i + kStages < count) fill(i + kStages);
  }
};

// One block of 32 x 128 weights against 128 x 8 kTiles of x.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_block(float (&acc)[2][kTiles][4], const unsigned char* stage, int rows,
                                               int lane) {
  const auto* w = reinterpret_cast<const uint4*>(stage) + lane;
  const uint4 positions = w[kValueUnits];
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint4 upper = w[step * 32], lower = w[(4 + step) * 32];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      // Only `rows` rows have memory.
      const int row = min(8 * t + lane % 8, rows - 1);
      const uint4 x = load_matrices(x_address(stage + kBlockBytes, row, lane) + step * 64);
      if (step % 2 == 0) {
        mma_sparse<T, 0>(acc[0][t], upper, x, step < 2 ? positions.x : positions.y);
        mma_sparse<T, 0>(acc[1][t], lower, x, step < 2 ? positions.z : positions.w);
      } else {
        mma_sparse<T, 1>(acc[0][t], upper, x, step < 2 ? positions.x : positions.y);
        mma_sparse<T, 1>(acc[1][t], lower, x, step < 2 ? positions.z : positions.w);
      }
    }
  }
}

// One step of 16 ranks; t comes in two parts.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_low_rank(float (&acc)[2][kTiles][4], const uint4& upper, const uint4& lower,
                                                  const uint4* t_operand, int lane) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const uint4 operand = load_t(t_operand + t * 32 + lane);
    mma_dense<T>(acc[0][t], upper, operand.x, operand.y);
    mma_dense<T>(acc[1][t], lower, operand.x, operand.y);
    mma_dense<T>(acc[0][t], upper, operand.z, operand.w);
    mma_dense<T>(acc[1][t], lower, operand.z, operand.w);
  }
}

constexpr int kSumStride = kRowBlock + 4;  // lanes of a quad fall into different banks

template <int kTiles>
__device__ __forceinline__ void store_sums(float* sums, const float (&acc)[2][kTiles][4], int lane) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(8 * t + lane % 4 * 2 + i % 2) * kSumStride + m * 16 + lane / 4 + i / 2 * 8] = acc[m][t][i];
}

template <typename T>
__device__ __forceinline__ void store_y(const ForwardArgs& a, int token, int row, float sum) {
  if (token >= a.tokens || row >= a.d_out) return;
  if (a.bias) sum += to_float(static_cast<const T*>(a.bias)[row]);
  static_cast<T*>(a.y)[static_cast<std::size_t>(token) * a.d_out + row] = from_float<T>(sum);
}

// Bytes of a warp's shared memory: its ring, which the sums replace at the end.
template <int kTiles, int kStages>
SPARLOW_HD int decode_warp_bytes(int tokens) {
  const int rows = tokens < 8 * kTiles ? tokens : 8 * kTiles, ring = kStages * (kBlockBytes + rows * kXStride);
  constexpr int sums = 8 * kTiles * kSumStride * 4;
  return ring > sums ? ring : sums;
}

// Grid: (row blocks, groups of 8 kTiles tokens).
template <typename T, int kTiles, int kWarps, int kStages>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const ForwardArgs a) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Barrier full[kWarps][kStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row_block = blockIdx.x;
  const int first_token = blockIdx.y * 8 * kTiles, rows = min(a.tokens - first_token, 8 * kTiles);
  const int warp_bytes = decode_warp_bytes<kTiles, kStages>(a.tokens);

  WarpRing<kWarps, kStages> ring{a,
                                 a.weights + static_cast<std::size_t>(row_block) * a.column_blocks * kBlockUnits,
                                 warp,
                                 (a.column_blocks - warp + kWarps - 1) / kWarps,
                                 first_token,
                                 rows,
                                 shared + warp * warp_bytes,
                                 kBlockBytes + rows * kXStride,
                                 full[warp],
                                 lane};
  ring.start();
  allow_next_kernel();
  const uint4* u = a.u + static_cast<std::size_t>(row_block) * a.rank_steps * 64 + lane;
  uint4 upper{}, lower{};
  if (warp < a.rank_steps) upper = __ldg(u + warp * 64), lower = __ldg(u + warp * 64 + 32);

  float acc[2][kTiles][4] = {};
  for (int i = 0; i < ring.count; ++i) {
    multiply_block<T, kTiles>(acc, ring.acquire(i), rows, lane);
    ring.release(i);
  }
  if (warp < a.rank_steps) wait_for_previous_kernel();
  for (int step = warp; step < a.rank_steps; step += kWarps) {
    if (step != warp) upper = __ldg(u + step * 64), lower = __ldg(u + step * 64 + 32);
    multiply_low_rank<T, kTiles>(acc, upper, lower, a.t_of(blockIdx.y, a.part_of(row_block) * a.rank_steps + step),
                                 lane);
  }
  store_sums<kTiles>(reinterpret_cast<float*>(shared + warp * warp_bytes), acc, lane);
  __syncthreads();
  for (int e = threadIdx.x; e < rows * kRowBlock; e += kWarps * 32) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      sum += reinterpret_cast<const float*>(shared + w * warp_bytes)[e / kRowBlock * kSumStride + e % kRowBlock];
    store_y<T>(a, first_token + e / kRowBlock, row_block * kRowBlock + e % kRowBlock, sum);
  }
}

}  // namespace sparlow::kernels
