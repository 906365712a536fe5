#include "fill.cuh"
#include "nm24.hpp"
#include "nm24_layout.hpp"

namespace sparlow::kernels {
namespace {

struct WeightWord {
  CheckpointNm24 s;
  __device__ std::uint32_t operator()(std::size_t i) const { return weight_word(s, i); }
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

std::uint32_t* words_at(void* packed, std::size_t bytes) { return static_cast<std::uint32_t*>(packed) + bytes / 4; }

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
  const cudaError_t status =
      fill(words_at(weights, offset.weights), weight_words(rows, shape.d_in), WeightWord{s}, stream);
  if (status != cudaSuccess) return status;
  return pack_factors(u_from, v_from, shape.rank, words_at(u, offset.u), words_at(v, offset.v), stream);
}

cudaError_t nm24_unpack(const Nm24Shape& shape, const void* weights, const void* u, const void* v, const Nm24Out& to,
                        cudaStream_t stream) {
  const int rows = shape.rows[0], d_in = shape.d_in;
  const PackedNm24 s{static_cast<const std::uint32_t*>(weights), d_in};
  const std::size_t count = static_cast<std::size_t>(rows);
  cudaError_t status = fill(static_cast<std::uint32_t*>(to.values), count * (d_in / 4), Pair{s}, stream);
  if (status == cudaSuccess) status = fill(to.meta, count * ((d_in + 7) / 8), Meta{s}, stream);
  if (status != cudaSuccess) return status;
  return unpack_factors(rows, shape.rank, d_in, u, v, to.u, to.v, stream);
}

}  // namespace sparlow::kernels
