#include <cstdint>

#include "read.cuh"

namespace sparlow::bench {
namespace {

constexpr int kThreads = 256, kBlocksOfDevice = 132 * 16, kUnroll = 4;

__global__ void read_kernel(const uint4* from, std::size_t count, unsigned* sum) {
  unsigned mine = 0;
  const std::size_t step = std::size_t{gridDim.x} * kThreads;
  std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + (kUnroll - 1) * step < count; i += kUnroll * step) {
    uint4 v[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) v[k] = __ldcs(from + i + k * step);
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) mine += v[k].x + v[k].y + v[k].z + v[k].w;
  }
  for (; i < count; i += step) mine += from[i].x + from[i].y + from[i].z + from[i].w;
  for (int lane = 16; lane > 0; lane /= 2) mine += __shfl_down_sync(~0u, mine, lane);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, mine);
}

}  // namespace

cudaError_t read_all(const void* from, std::size_t bytes, unsigned* sum, cudaStream_t stream) {
  read_kernel<<<kBlocksOfDevice, kThreads, 0, stream>>>(static_cast<const uint4*>(from), bytes / sizeof(uint4), sum);
  return cudaGetLastError();
}

}  // namespace sparlow::bench
