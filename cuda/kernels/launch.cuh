// One thread per entry, rows in y.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels.hpp"

namespace sparlow::cuda::kernels {

template <typename Body>
__global__ void each_entry(Size rows, Size cols, Body body) {
  for (Size i = blockIdx.y; i < rows; i += gridDim.y)
    for (Size j = blockIdx.x * Size(blockDim.x) + threadIdx.x; j < cols; j += Size(gridDim.x) * blockDim.x) body(i, j);
}

// body(i, j) for every entry of a rows x cols matrix.
template <typename Body>
cudaError_t for_each(Size rows, Size cols, cudaStream_t stream, Body body) {
  if (rows == 0 || cols == 0) return cudaSuccess;
  const unsigned threads = static_cast<unsigned>(std::min<Size>(256, (cols + 31) / 32 * 32));
  const dim3 grid(static_cast<unsigned>(std::min<Size>((cols + threads - 1) / threads, 1 << 20)),
                  static_cast<unsigned>(std::min<Size>(rows, 65535)));
  each_entry<<<grid, threads, 0, stream>>>(rows, cols, body);
  return cudaGetLastError();
}

inline bool aligned16(const void* data, Size stride_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride_bytes % 16 == 0;
}

// V neighbouring entries of a row that are loaded and stored together.
template <int V, typename T = float>
struct alignas(V * sizeof(T)) Pack {
  T v[V];
};

template <int V, typename T>
__device__ Pack<V, T> load(const T* x) {
  return *reinterpret_cast<const Pack<V, T>*>(x);
}

template <int V, typename T>
__device__ void store(T* out, const Pack<V, T>& pack) {
  *reinterpret_cast<Pack<V, T>*>(out) = pack;
}

// Whether rows of `cols` entries fall into packs of four.
template <typename T>
bool packs(Size cols, Rows<T> x) {
  constexpr Size bytes = 4 * sizeof(T);
  return cols % 4 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % bytes == 0 && x.stride % 4 == 0;
}

template <int V, typename Body>
__global__ void each_pack(Size rows, Size count, Body body) {
  for (Size i = blockIdx.y; i < rows; i += gridDim.y)
    for (Size p = blockIdx.x * Size(blockDim.x) + threadIdx.x; p < count; p += Size(gridDim.x) * blockDim.x)
      body(i, V * p, std::integral_constant<int, V>());
}

// body(i, j, V) for the V entries from j on of row i, V = 4 when `wide`, else 1.
template <typename Body>
cudaError_t for_packs(Size rows, Size cols, bool wide, cudaStream_t stream, Body body) {
  if (rows == 0 || cols == 0) return cudaSuccess;
  const Size count = wide ? cols / 4 : cols;
  const unsigned threads = static_cast<unsigned>(std::min<Size>(256, (count + 31) / 32 * 32));
  const dim3 grid(static_cast<unsigned>(std::min<Size>((count + threads - 1) / threads, 1 << 20)),
                  static_cast<unsigned>(std::min<Size>(rows, 65535)));
  if (wide) each_pack<4><<<grid, threads, 0, stream>>>(rows, count, body);
  else each_pack<1><<<grid, threads, 0, stream>>>(rows, count, body);
  return cudaGetLastError();
}

// Sum over the block in a fixed order; every thread gets it. `shared` holds one value a warp.
template <typename T>
__device__ T block_sum(T value, T* shared) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  __syncthreads();  // the previous sum has been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += shared[warp];
  return sum;
}

}  // namespace sparlow::cuda::kernels
