// Filling an array from a function of the index, and packed low-rank factors.
#pragma once

#include <cuda_runtime_api.h>

#include "nm24_layout.hpp"

namespace sparlow::kernels {

constexpr int kFillThreads = 256;

template <typename T, typename Word>
__global__ void fill_array(T* to, std::size_t n, Word word) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * kFillThreads;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kFillThreads + threadIdx.x; i < n; i += stride)
    to[i] = word(i);
}

template <typename T, typename Word>
cudaError_t fill(T* to, std::size_t n, Word word, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const std::size_t wanted = (n + kFillThreads - 1) / kFillThreads;
  fill_array<<<static_cast<unsigned>(wanted < 4096 ? wanted : 4096), kFillThreads, 0, stream>>>(to, n, word);
  return cudaGetLastError();
}

struct UWordOf {
  Dense16 u;
  int rank;
  __device__ std::uint32_t operator()(std::size_t i) const { return u_word(u, rank, i); }
};
struct VWordOf {
  Dense16 v;
  __device__ std::uint32_t operator()(std::size_t i) const { return v_word(v, i); }
};
struct UElementOf {
  const std::uint32_t* words;
  int rank;
  __device__ std::uint16_t operator()(std::size_t i) const {
    return u_element(words, rank, static_cast<int>(i / rank), static_cast<int>(i % rank));
  }
};
struct VElementOf {
  const std::uint32_t* words;
  int d_in;
  __device__ std::uint16_t operator()(std::size_t i) const {
    return v_element(words, d_in, static_cast<int>(i / d_in), static_cast<int>(i % d_in));
  }
};

// u and v as packed with `rank`, which may be more than they have: the rest is zero.
inline cudaError_t pack_factors(const Dense16& u, const Dense16& v, int rank, void* packed_u, void* packed_v,
                                cudaStream_t stream) {
  const cudaError_t status =
      fill(static_cast<std::uint32_t*>(packed_u), u_words(u.rows, rank), UWordOf{u, rank}, stream);
  if (status != cudaSuccess) return status;
  return fill(static_cast<std::uint32_t*>(packed_v), v_words(rank, v.cols), VWordOf{v}, stream);
}
inline cudaError_t unpack_factors(int d_out, int rank, int d_in, const void* packed_u, const void* packed_v, void* u,
                                  void* v, cudaStream_t stream) {
  const std::size_t count = rank;
  const cudaError_t status = fill(static_cast<std::uint16_t*>(u), count * d_out,
                                  UElementOf{static_cast<const std::uint32_t*>(packed_u), rank}, stream);
  if (status != cudaSuccess) return status;
  return fill(static_cast<std::uint16_t*>(v), count * d_in,
              VElementOf{static_cast<const std::uint32_t*>(packed_v), d_in}, stream);
}

}  // namespace sparlow::kernels
