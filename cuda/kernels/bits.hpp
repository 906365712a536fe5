// Layers with bit masks on the GPU: y = x sᵀ + x ((us vs) ∘ signs)ᵀ + (x vᵀ) uᵀ + bias for a few tokens, with s in the
// format bitmap or, beside signs, nm24. Raw pointers, sizes, a stream; no allocation, no synchronisation, safe to
// capture.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "nm24.hpp"

namespace sparlow::kernels {

struct BitsShape {
  int d_out, d_in;  // d_in: a multiple of 4
  int rank;
  int sign_rank;       // 0: no signs
  bool bitmap;         // else nm24
  std::size_t stored;  // values of a bitmap
};

constexpr int kMostSignRanks = 4;    // of a forward pass; layers with more have to be expanded
constexpr int kMostBitsTokens = 16;  // of one pass over the weights

struct BitsBytes {
  std::size_t offsets, blocks, u, v, sign_v, sign_u;
};
BitsBytes bits_bytes(const BitsShape& shape);
std::size_t bits_scratch_bytes(const BitsShape& shape);  // for packing and unpacking a bitmap

// Pieces of the packed buffer, each at a multiple of 128.
struct BitsPacked {
  std::uint32_t* offsets;
  void *blocks, *u, *v, *sign_v, *sign_u;
};
// The checkpoint's tensors: values and meta of s, sign_bits [d_out, ceil(d_in / 8)], factors as in Nm24Part.
struct BitsTensors {
  void* values;
  std::uint8_t* meta;
  void *u, *v;
  std::uint8_t* sign_bits;
  void *sign_u, *sign_v;
};
cudaError_t bits_pack(const BitsShape& shape, const BitsTensors& from, const BitsPacked& packed, void* scratch,
                      cudaStream_t stream);
cudaError_t bits_unpack(const BitsShape& shape, const BitsPacked& packed, const BitsTensors& to, void* scratch,
                        cudaStream_t stream);
// w [d_out, d_in] = s + (us vs) ∘ signs, summed in float.
cudaError_t bits_expand(const BitsShape& shape, const BitsPacked& packed, void* w, Half type, cudaStream_t stream);

// As Nm24Call; of any number of tokens, the weights are read once for each kMostBitsTokens.
struct BitsCall {
  BitsPacked packed;
  const void *bias, *x;
  void *y, *workspace;
  int tokens;
  Half type;
};
std::size_t bits_workspace_bytes(const BitsShape& shape, int tokens);
cudaError_t bits_forward(const BitsShape& shape, const BitsCall& call, const Nm24Device& device, cudaStream_t stream);

}  // namespace sparlow::kernels
