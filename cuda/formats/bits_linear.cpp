#include "formats/bits_linear.hpp"

#include "formats/device.hpp"
#include "sparlow/error.hpp"

namespace sparlow::cuda {
namespace {

bits::BitsShape kernel_shape(const LinearShape& shape) {
  return {static_cast<int>(shape.d_out),       static_cast<int>(shape.d_in),   static_cast<int>(shape.rank),
          static_cast<int>(shape.sign_rank),   shape.format == Format::bitmap, static_cast<std::size_t>(shape.stored),
          static_cast<int>(shape.most_in_tile)};
}

bits::BitsPacked pieces_of(const bits::BitsShape& shape, void* packed) {
  const bits::BitsBytes bytes = bits::bits_bytes(shape);
  const std::size_t blocks = aligned(bytes.offsets), u = blocks + aligned(bytes.blocks), v = u + aligned(bytes.u);
  const std::size_t sign_v = v + aligned(bytes.v), sign_u = sign_v + aligned(bytes.sign_v);
  return {static_cast<std::uint32_t*>(packed),
          at(packed, blocks),
          at(packed, u),
          at(packed, v),
          at(packed, sign_v),
          at(packed, sign_u)};
}
// The kernels that take these only read.
bits::BitsPacked pieces_of(const bits::BitsShape& shape, const void* packed) {
  return pieces_of(shape, const_cast<void*>(packed));
}

bits::BitsTensors tensors_of(const LinearTensors& t) {
  return {t.values, t.meta, t.u, t.v, t.sign_bits, t.sign_u, t.sign_v};
}

bits::Half type_of(const LinearShape& shape) {
  return shape.dtype == DType::bf16 ? bits::Half::bfloat16 : bits::Half::float16;
}

}  // namespace

std::size_t BitsLinear::packed_bytes(const LinearShape& shape) const {
  const bits::BitsBytes b = bits::bits_bytes(kernel_shape(shape));
  return aligned(b.offsets) + aligned(b.blocks) + aligned(b.u) + aligned(b.v) + aligned(b.sign_v) + aligned(b.sign_u);
}

void BitsLinear::pack(const LinearShape& shape, const LinearTensors& from, void* packed, cudaStream_t stream) const {
  const bits::BitsShape s = kernel_shape(shape);
  void* scratch = scratch_.get(bits::bits_scratch_bytes(s), stream);
  check(bits::bits_pack(s, tensors_of(from), pieces_of(s, packed), scratch, stream), "bits_pack");
}

void BitsLinear::unpack(const LinearShape& shape, const void* packed, const LinearTensors& to,
                        cudaStream_t stream) const {
  const bits::BitsShape s = kernel_shape(shape);
  void* scratch = scratch_.get(bits::bits_scratch_bytes(s), stream);
  check(bits::bits_unpack(s, pieces_of(s, packed), tensors_of(to), scratch, stream), "bits_unpack");
}

void BitsLinear::forward(const LinearShape& shape, const void* packed, const void* bias, const void* x, void* y,
                         Index tokens, cudaStream_t stream) {
  const bits::BitsShape s = kernel_shape(shape);
  if (s.sign_rank > bits::kMostSignRanks)
    fail(ErrorCode::unavailable, "a signed term of rank ", s.sign_rank, " has no kernel, up to ", bits::kMostSignRanks,
         " have; expand the layer");
  const int count = static_cast<int>(tokens);
  void* workspace = mailboxes_.get(bits::bits_workspace_bytes(s, count), stream);
  const bits::BitsCall call{pieces_of(s, packed), bias, x, y, workspace, count, type_of(shape)};
  check(bits::bits_forward(s, call, device_, stream), "bits_forward");
}

void BitsLinear::expand(const LinearShape& shape, const void* packed, void* w, cudaStream_t stream) const {
  const bits::BitsShape s = kernel_shape(shape);
  check(bits::bits_expand(s, pieces_of(s, packed), w, type_of(shape), stream), "bits_expand");
}

void BitsLinear::unpack_factors(const LinearShape& shape, const void* packed, void* u, void* v,
                                cudaStream_t stream) const {
  const bits::BitsShape s = kernel_shape(shape);
  check(bits::bits_unpack_factors(s, pieces_of(s, packed), u, v, stream), "bits_unpack_factors");
}

// Expanding and multiplying takes as long as four or six passes of the kernel. Measured: bench/ladders/bits.
Index BitsLinear::most_tokens(const LinearShape& shape) const {
  if (shape.sign_rank > bits::kMostSignRanks) return 0;
  return bits::kMostBitsTokens * (shape.format == Format::bitmap ? 4 : 6);
}

}  // namespace sparlow::cuda
