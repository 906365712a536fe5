// Numbers of 16 bits in kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda_support.hpp"
#include "sparlow/sparlow.h"

namespace llama::cuda {

__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
// x as a T holds it.
template <class T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

// N numbers that are read and written together.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Calls body.template operator()<T>() for the type.
template <class Body>
void with_type(sparlow_dtype dtype, Body&& body) {
  if (dtype == SPARLOW_BF16) body.template operator()<__nv_bfloat16>();
  else body.template operator()<__half>();
}

// A kernel may be started while the one before it on the stream still runs; it calls this before it looks at memory,
// and lets the one after it start likewise.
__device__ __forceinline__ void begin_after_previous() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}

inline bool can_overlap() {
  static const bool can = [] {
    int device = 0, major = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    return major >= 9;
  }();
  return can;
}

// Of kernels that call begin_after_previous().
template <typename... Parameters, typename... Values>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, cudaStream_t stream, const Values&... values) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(static_cast<unsigned>(threads)), config.stream = stream;
  config.attrs = &attribute, config.numAttrs = can_overlap() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...), "launching a kernel");
}

// The sum over a block of at most 1024 threads, in every thread.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float warps[32];
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < (blockDim.x + 31) / 32 ? warps[threadIdx.x % 32] : 0.0f;
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

}  // namespace llama::cuda
