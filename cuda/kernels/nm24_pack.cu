#include "nm24.hpp"
#include "nm24_layout.hpp"

namespace sparlow::kernels {
namespace {

constexpr int kThreads = 256;

// One thread a 32-bit word of the packed layout.
template <typename Word>
__global__ void fill_kernel(std::uint32_t* to, std::size_t words, Word word) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * kThreads;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x; i < words; i += stride)
    to[i] = word(i);
}

template <typename Word>
cudaError_t fill(void* to, std::size_t first_word, std::size_t words, Word word, cudaStream_t stream) {
  if (words == 0) return cudaSuccess;
  const std::size_t wanted = (words + kThreads - 1) / kThreads;
  fill_kernel<<<static_cast<unsigned>(wanted < 4096 ? wanted : 4096), kThreads, 0, stream>>>(
      static_cast<std::uint32_t*>(to) + first_word, words, word);
  return cudaGetLastError();
}

struct WeightWord {
  CheckpointNm24 s;
  __device__ std::uint32_t operator()(std::size_t i) const { return weight_word(s, i); }
};
struct UWord {
  Dense16 u;
  int rank;
  __device__ std::uint32_t operator()(std::size_t i) const { return u_word(u, rank, i); }
};
struct VWord {
  Dense16 v;
  __device__ std::uint32_t operator()(std::size_t i) const { return v_word(v, i); }
};

}  // namespace

Nm24Bytes nm24_bytes(const Nm24Shape& shape) {
  Nm24Bytes bytes{};
  for (int p = 0; p < shape.parts; ++p) {
    bytes.weights += 4 * weight_words(shape.rows[p], shape.d_in);
    bytes.u += 4 * u_words(shape.rows[p], shape.rank);
    bytes.v += 4 * v_words(shape.rank, shape.d_in);
  }
  return bytes;
}

cudaError_t nm24_pack(const Nm24Shape& shape, int part, const Nm24Part& from, void* weights, void* u, void* v,
                      cudaStream_t stream) {
  Nm24Shape before = shape;
  before.parts = part;
  const Nm24Bytes offset = nm24_bytes(before);
  const int rows = shape.rows[part];
  const CheckpointNm24 s{static_cast<const std::uint16_t*>(from.values), from.meta, rows, shape.d_in};
  const Dense16 u_from{static_cast<const std::uint16_t*>(from.u), rows, from.rank};
  const Dense16 v_from{static_cast<const std::uint16_t*>(from.v), from.rank, shape.d_in};
  cudaError_t status = fill(weights, offset.weights / 4, weight_words(rows, shape.d_in), WeightWord{s}, stream);
  if (status == cudaSuccess)
    status = fill(u, offset.u / 4, u_words(rows, shape.rank), UWord{u_from, shape.rank}, stream);
  if (status == cudaSuccess) status = fill(v, offset.v / 4, v_words(shape.rank, shape.d_in), VWord{v_from}, stream);
  return status;
}

}  // namespace sparlow::kernels
