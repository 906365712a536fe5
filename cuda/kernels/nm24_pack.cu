#include "nm24.hpp"
#include "nm24_layout.hpp"

namespace sparlow::kernels {
namespace {

constexpr int kThreads = 256;

// One thread an element of `to`.
template <typename T, typename Word>
__global__ void fill_kernel(T* to, std::size_t words, Word word) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * kThreads;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x; i < words; i += stride)
    to[i] = word(i);
}

template <typename T, typename Word>
cudaError_t fill(T* to, std::size_t words, Word word, cudaStream_t stream) {
  if (words == 0) return cudaSuccess;
  const std::size_t wanted = (words + kThreads - 1) / kThreads;
  fill_kernel<<<static_cast<unsigned>(wanted < 4096 ? wanted : 4096), kThreads, 0, stream>>>(to, words, word);
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
struct VaWord {
  Dense16 v;
  __device__ std::uint32_t operator()(std::size_t i) const { return va_word(v, i); }
};

struct Pair {
  PackedNm24 s;
  __device__ std::uint32_t operator()(std::size_t i) const {
    const int groups = s.d_in / 4;
    return s.pair(static_cast<int>(i / groups), static_cast<int>(i % groups));
  }
};
struct Meta {
  PackedNm24 s;
  __device__ std::uint8_t operator()(std::size_t i) const {
    const int bytes = (s.d_in + 7) / 8;
    return static_cast<std::uint8_t>(s.meta(static_cast<int>(i / bytes), static_cast<int>(i % bytes)));
  }
};
struct UElement {
  const std::uint32_t* words;
  int rank;
  __device__ std::uint16_t operator()(std::size_t i) const {
    return u_element(words, rank, static_cast<int>(i / rank), static_cast<int>(i % rank));
  }
};
struct VElement {
  const std::uint32_t* words;
  int d_in;
  __device__ std::uint16_t operator()(std::size_t i) const {
    return v_element(words, d_in, static_cast<int>(i / d_in), static_cast<int>(i % d_in));
  }
};

std::uint32_t* words_at(void* packed, std::size_t bytes) { return static_cast<std::uint32_t*>(packed) + bytes / 4; }

}  // namespace

Nm24Bytes nm24_bytes(const Nm24Shape& shape) {
  Nm24Bytes bytes{};
  for (int p = 0; p < shape.parts; ++p) {
    bytes.weights += 4 * weight_words(shape.rows[p], shape.d_in);
    bytes.u += 4 * u_words(shape.rows[p], shape.rank);
    bytes.v += 4 * (v_words(shape.rank, shape.d_in) + va_words(shape.rank, shape.d_in));
  }
  return bytes;
}

std::size_t nm24_va_offset(const Nm24Shape& shape) { return 4 * shape.parts * v_words(shape.rank, shape.d_in); }

cudaError_t nm24_pack(const Nm24Shape& shape, int part, const Nm24Part& from, void* weights, void* u, void* v,
                      cudaStream_t stream) {
  Nm24Shape before = shape;
  before.parts = part;
  const Nm24Bytes offset = nm24_bytes(before);
  const int rows = shape.rows[part];
  const CheckpointNm24 s{static_cast<const std::uint16_t*>(from.values), from.meta, rows, shape.d_in};
  const Dense16 u_from{static_cast<const std::uint16_t*>(from.u), rows, from.rank};
  const Dense16 v_from{static_cast<const std::uint16_t*>(from.v), from.rank, shape.d_in};
  cudaError_t status = fill(words_at(weights, offset.weights), weight_words(rows, shape.d_in), WeightWord{s}, stream);
  if (status == cudaSuccess)
    status = fill(words_at(u, offset.u), u_words(rows, shape.rank), UWord{u_from, shape.rank}, stream);
  if (status == cudaSuccess)
    status = fill(words_at(v, 4 * part * v_words(shape.rank, shape.d_in)), v_words(shape.rank, shape.d_in),
                  VWord{v_from}, stream);
  if (status == cudaSuccess)
    status = fill(words_at(v, nm24_va_offset(shape) + 4 * part * va_words(shape.rank, shape.d_in)),
                  va_words(shape.rank, shape.d_in), VaWord{v_from}, stream);
  return status;
}

cudaError_t nm24_unpack(const Nm24Shape& shape, const void* weights, const void* u, const void* v, const Nm24Out& to,
                        cudaStream_t stream) {
  const int rows = shape.rows[0], d_in = shape.d_in;
  const PackedNm24 s{static_cast<const std::uint32_t*>(weights), d_in};
  const std::size_t count = static_cast<std::size_t>(rows);
  cudaError_t status = fill(static_cast<std::uint32_t*>(to.values), count * (d_in / 4), Pair{s}, stream);
  if (status == cudaSuccess) status = fill(to.meta, count * ((d_in + 7) / 8), Meta{s}, stream);
  if (status == cudaSuccess)
    status = fill(static_cast<std::uint16_t*>(to.u), count * shape.rank,
                  UElement{static_cast<const std::uint32_t*>(u), shape.rank}, stream);
  if (status == cudaSuccess)
    status = fill(static_cast<std::uint16_t*>(to.v), static_cast<std::size_t>(shape.rank) * d_in,
                  VElement{static_cast<const std::uint32_t*>(v), d_in}, stream);
  return status;
}

}  // namespace sparlow::kernels
