#include "formats/linear.hpp"

#include <limits>

#include "formats/device.hpp"
#include "kernels/kernels.hpp"

namespace sparlow::cuda {
namespace {

bool is_plain(const LinearShape& shape) { return shape.format == Format::nm24 && shape.sign_rank == 0; }

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

nm24::Nm24Device properties_of(int device) {
  check_device(device);
  const Bind bind(device);
  check(kernels::has_code_for_device(), "looking for code for this GPU");
  return {
      10 * attribute(cudaDevAttrComputeCapabilityMajor, device) + attribute(cudaDevAttrComputeCapabilityMinor, device),
      attribute(cudaDevAttrMultiProcessorCount, device)};
}

}  // namespace

CudaLinear::CudaLinear(int device)
    : device_(device), nm24_(properties_of(device), mailboxes_), bits_(properties_of(device), mailboxes_) {}

std::int64_t CudaLinear::do_packed_bytes(const LinearShape& shape) const {
  return static_cast<std::int64_t>(is_plain(shape) ? nm24_.packed_bytes(shape) : bits_.packed_bytes(shape));
}

void CudaLinear::do_pack(const LinearShape& shape, int part, Index rank, const LinearTensors& from, void* packed,
                         Stream stream) const {
  const Bind bind(device_);
  if (is_plain(shape)) nm24_.pack(shape, part, rank, from, packed, stream_of(stream));
  else bits_.pack(shape, from, packed, stream_of(stream));
}

void CudaLinear::do_unpack(const LinearShape& shape, int part, const void* packed, const LinearTensors& to,
                           Stream stream) const {
  const Bind bind(device_);
  if (is_plain(shape)) nm24_.unpack(shape, part, packed, to, stream_of(stream));
  else bits_.unpack(shape, packed, to, stream_of(stream));
}

void CudaLinear::do_forward(const LinearShape& shape, int part, const void* packed, const void* bias, const void* x,
                            void* y, Index tokens, Stream stream) {
  const Bind bind(device_);
  if (is_plain(shape)) nm24_.forward(shape, part, packed, bias, x, y, tokens, stream_of(stream));
  else bits_.forward(shape, packed, bias, x, y, tokens, stream_of(stream));
}

void CudaLinear::do_expand(const LinearShape& shape, const void* packed, void* w, Stream stream) const {
  const Bind bind(device_);
  bits_.expand(shape, packed, w, stream_of(stream));
}

Index CudaLinear::do_most_tokens(const LinearShape& shape) const {
  return is_plain(shape) ? std::numeric_limits<Index>::max() : bits_.most_tokens(shape);
}

std::string_view CudaLinear::do_kernel(const LinearShape& shape, Index tokens) const {
  if (is_plain(shape)) return nm24_.kernel(shape, tokens);
  return tokens <= bits_.most_tokens(shape) ? "bits" : "unpack + dense";
}

}  // namespace sparlow::cuda
