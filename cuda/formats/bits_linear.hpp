// Layers with bit masks on one GPU: s in the format bitmap, or signs. The packed buffer holds the pieces of
// kernels/bits.hpp, each at a multiple of 256.
#pragma once

#include "formats/workspaces.hpp"
#include "kernels/bits.hpp"
#include "sparlow/linear.hpp"

namespace sparlow::cuda {

namespace bits = sparlow::kernels;

class BitsLinear {
 public:
  BitsLinear(const bits::Nm24Device& device, Workspaces& mailboxes) : device_(device), mailboxes_(mailboxes) {}

  std::size_t packed_bytes(const LinearShape& shape) const;
  void pack(const LinearShape& shape, const LinearTensors& from, void* packed, cudaStream_t stream) const;
  void unpack(const LinearShape& shape, const void* packed, const LinearTensors& to, cudaStream_t stream) const;
  void forward(const LinearShape& shape, const void* packed, const void* bias, const void* x, void* y, Index tokens,
               cudaStream_t stream);
  void expand(const LinearShape& shape, const void* packed, void* w, cudaStream_t stream) const;
  Index most_tokens(const LinearShape& shape) const;

 private:
  bits::Nm24Device device_;
  Workspaces& mailboxes_;
  mutable Workspaces scratch_;
};

}  // namespace sparlow::cuda
