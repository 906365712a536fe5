// Filling an array from a function of the index, and packed low-rank factors.
#pragma once

#include <cuda_runtime_api.h>

#include "bits.hpp"
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

struct PackedUWord {
  Dense16 u;
  __device__ std::uint32_t operator()(std::size_t i) const { return u_word(u, u.cols, i); }
};
struct PackedVWord {
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

inline cudaError_t pack_factors(const BitsShape& shape, const BitsTensors& from, const BitsPacked& packed,
                                cudaStream_t stream) {
  const Dense16 u{static_cast<const std::uint16_t*>(from.u), shape.d_out, shape.rank};
  const Dense16 v{static_cast<const std::uint16_t*>(from.v), shape.rank, shape.d_in};
  const cudaError_t status =
      fill(static_cast<std::uint32_t*>(packed.u), u_words(shape.d_out, shape.rank), PackedUWord{u}, stream);
  if (status != cudaSuccess) return status;
  return fill(static_cast<std::uint32_t*>(packed.v), v_words(shape.rank, shape.d_in), PackedVWord{v}, stream);
}
inline cudaError_t unpack_factors(const BitsShape& shape, const BitsPacked& packed, const BitsTensors& to,
                                  cudaStream_t stream) {
  const std::size_t rank = shape.rank;
  const cudaError_t status = fill(static_cast<std::uint16_t*>(to.u), rank * shape.d_out,
                                  UElementOf{static_cast<const std::uint32_t*>(packed.u), shape.rank}, stream);
  if (status != cudaSuccess) return status;
  return fill(static_cast<std::uint16_t*>(to.v), rank * shape.d_in,
              VElementOf{static_cast<const std::uint32_t*>(packed.v), shape.d_in}, stream);
}

}  // namespace sparlow::kernels
