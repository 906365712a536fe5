// Compressed layers on the GPU: y = x sᵀ + (x vᵀ) uᵀ + bias with s 2:4, in bfloat16 or float16.
// Raw pointers, sizes, a stream; no allocation, no synchronisation, safe to capture in a CUDA graph.
//
//   pack     once per layer: checkpoint layout -> what the kernels read (nm24_layout.hpp)
//   plan     a pure function of shapes and device: which kernel, how much workspace
//   forward  one launch, or two or three for many tokens
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "nm24_plan.hpp"

namespace sparlow::kernels {

enum class Half { bfloat16, float16 };

struct Nm24Bytes {
  std::size_t weights, u, v;
};
Nm24Bytes nm24_bytes(const Nm24Shape& shape);

// Part `part` of the shape from the checkpoint's layout into the packed buffers of the whole. values [rows, d_in / 2],
// meta [rows, ceil(d_in / 8)], u [rows, rank], v [rank, d_in], all on the device; rank may be smaller than the shape's,
// or 0 with u and v null.
struct Nm24Part {
  const void* values;
  const std::uint8_t* meta;
  const void *u, *v;
  int rank;
};
cudaError_t nm24_pack(const Nm24Shape& shape, int part, const Nm24Part& from, void* weights, void* u, void* v,
                      cudaStream_t stream);

// The exact inverse, of a shape of one part.
struct Nm24Out {
  void* values;
  std::uint8_t* meta;
  void *u, *v;
};
cudaError_t nm24_unpack(const Nm24Shape& shape, const void* weights, const void* u, const void* v, const Nm24Out& to,
                        cudaStream_t stream);

// The workspace must be zero before its first use, the scratch may hold anything; they belong to one stream at a time,
// and layers may share them. All matrices are row-major and contiguous: x [tokens, d_in], y [tokens, d_out], bias
// [d_out] or null. overlap: may begin before the kernel ahead of it on the stream has ended (sm_90). It reads x only
// after that.
struct Nm24Call {
  const void *weights, *u, *v, *bias, *x;
  void *y, *workspace, *scratch;
  int tokens;
  Half type;
  bool overlap;
};
cudaError_t nm24_forward(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream);

}  // namespace sparlow::kernels
