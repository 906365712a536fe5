// Second kernel of a forward pass for up to 16 tokens: y = x sᵀ + t uᵀ + bias, bound by reading s.
//
// A block has 32 rows; its warps take turns in blocks of 128 columns and add up at the end, so a weight is read by one
// warp only and needs no barrier. Each warp owns a ring of shared memory that the bulk copy engine fills: it holds the
// bytes in flight (a register file that deep would not leave room for the sums) and starts filling before x exists.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

// Blocks of 32 x 128 weights, in the order in which one warp meets them.
template <int kStages>
struct WeightStream {
  const uint4* next;  // the block `acquire` answers with, in global memory
  int stride;         // units between two blocks of this warp
  int count;
  uint4* ring;
#if SPARLOW_SM90
  Barrier* full;
  std::uint64_t policy;

  __device__ __forceinline__ void copy(int i) {
    barrier_expect(&full[i % kStages], kBlockBytes);
    bulk_copy(ring + i % kStages * kBlockUnits, next + static_cast<std::size_t>(i) * stride, kBlockBytes,
              &full[i % kStages], policy);
  }
  __device__ __forceinline__ void start(int lane) {
    if (lane == 0) {
      policy = evict_first();
      for (int s = 0; s < kStages; ++s) barrier_init(&full[s], 1);
      barrier_init_done();
      for (int i = 0; i < kStages && i < count; ++i) copy(i);
    }
    __syncwarp();
  }
  __device__ __forceinline__ const uint4* acquire(int i) {
    barrier_wait(&full[i % kStages], i / kStages % 2);
    return ring + i % kStages * kBlockUnits;
  }
  __device__ __forceinline__ void release(int i, int lane) {
    __syncwarp();
    if (lane == 0 && i + kStages < count) copy(i + kStages);
  }
#else
  __device__ __forceinline__ void start(int) {}
  __device__ __forceinline__ const uint4* acquire(int i) { return next + static_cast<std::size_t>(i) * stride; }
  __device__ __forceinline__ void release(int, int) {}
#endif
};

// One block of 32 x 128 weights against 128 x 8 kTiles of x.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_block(float (&acc)[2][kTiles][4], const uint4* w, const uint4 (&x)[4][kTiles],
                                               int lane) {
  const uint4 positions = w[kValueUnits + lane];
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint4 upper = w[step * 32 + lane], lower = w[(4 + step) * 32 + lane];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (step % 2 == 0) {
        mma_sparse<T, 0>(acc[0][t], upper, x[step][t], step < 2 ? positions.x : positions.y);
        mma_sparse<T, 0>(acc[1][t], lower, x[step][t], step < 2 ? positions.z : positions.w);
      } else {
        mma_sparse<T, 1>(acc[0][t], upper, x[step][t], step < 2 ? positions.x : positions.y);
        mma_sparse<T, 1>(acc[1][t], lower, x[step][t], step < 2 ? positions.z : positions.w);
      }
    }
  }
}

template <int kTiles>
__device__ __forceinline__ void load_x_block(uint4 (&x)[4][kTiles], const ForwardArgs& a, int block, int lane) {
  const uint4* from = a.x_operand + static_cast<std::size_t>(block) * (4 * kTiles * 32) + lane;
#pragma unroll
  for (int step = 0; step < 4; ++step)
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      x[step][t] = 8 * t + lane / 4 < a.tokens ? load_operand(from + (step * kTiles + t) * 32)
                                               : make_uint4(0, 0, 0, 0);
}

// One step of 16 ranks; t comes in two parts.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_low_rank(float (&acc)[2][kTiles][4], const ForwardArgs& a, int row_block,
                                                  int step, const uint4& upper, const uint4& lower, int lane) {
  const uint4* from =
      a.t_operand + (static_cast<std::size_t>(a.first_rank_step(row_block)) + step) * (kTiles * 32) + lane;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const uint4 operand = load_operand(from + t * 32);
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

template <int kWarps, int kStages, int kTiles>
struct DecodeShape {
  // Sums replace a warp's ring at the end.
  static constexpr int kRingBytes = kStages * kBlockBytes, kSumBytes = 8 * kTiles * kSumStride * 4;
  static constexpr int kWarpBytes = kRingBytes > kSumBytes ? kRingBytes : kSumBytes;
  static constexpr int kSharedBytes = kWarps * kWarpBytes;
};

template <typename T, int kTiles, int kWarps, int kStages>
__global__ void __launch_bounds__(kWarps * 32) decode_kernel(const ForwardArgs a) {
  using Shape = DecodeShape<kWarps, kStages, kTiles>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row_block = blockIdx.x;

  WeightStream<kStages> stream;
  stream.next = a.weights + (static_cast<std::size_t>(row_block) * a.column_blocks + warp) * kBlockUnits;
  stream.stride = kWarps * kBlockUnits;
  stream.count = (a.column_blocks - warp + kWarps - 1) / kWarps;
  stream.ring = reinterpret_cast<uint4*>(shared + warp * Shape::kWarpBytes);
#if SPARLOW_SM90
  __shared__ Barrier full[kWarps][kStages];
  stream.full = full[warp];
#endif
  stream.start(lane);
  allow_next_kernel();

  const uint4* u = a.u + static_cast<std::size_t>(row_block) * a.rank_steps * 64 + lane;
  uint4 upper{}, lower{};
  if (warp < a.rank_steps) upper = __ldg(u + warp * 64), lower = __ldg(u + warp * 64 + 32);
  wait_for_previous_kernel();

  float acc[2][kTiles][4] = {};
  uint4 x[4][kTiles], x_next[4][kTiles];
  if (stream.count > 0) load_x_block<kTiles>(x_next, a, warp, lane);
  for (int step = warp; step < a.rank_steps; step += kWarps) {
    if (step != warp) upper = __ldg(u + step * 64), lower = __ldg(u + step * 64 + 32);
    multiply_low_rank<T, kTiles>(acc, a, row_block, step, upper, lower, lane);
  }
  for (int i = 0; i < stream.count; ++i) {
#pragma unroll
    for (int e = 0; e < 4 * kTiles; ++e) x[e / kTiles][e % kTiles] = x_next[e / kTiles][e % kTiles];
    if (i + 1 < stream.count) load_x_block<kTiles>(x_next, a, warp + (i + 1) * kWarps, lane);
    const uint4* w = stream.acquire(i);
    multiply_block<T, kTiles>(acc, w, x, lane);
    stream.release(i, lane);
  }
  store_sums<kTiles>(reinterpret_cast<float*>(shared + warp * Shape::kWarpBytes), acc, lane);
  __syncthreads();
  for (int e = threadIdx.x; e < 8 * kTiles * kRowBlock; e += kWarps * 32) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      sum += reinterpret_cast<const float*>(shared + w * Shape::kWarpBytes)[e / kRowBlock * kSumStride + e % kRowBlock];
    store_y<T>(a, e / kRowBlock, row_block * kRowBlock + e % kRowBlock, sum);
  }
}

}  // namespace sparlow::kernels
