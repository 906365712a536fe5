// Layers in the format nm24 on one GPU. The packed buffer holds the kernels' weights, u and v, each at a multiple of
// 256; in each of them the parts of a stack follow one another.
#pragma once

#include <string_view>

#include "formats/workspaces.hpp"
#include "kernels/nm24.hpp"
#include "sparlow/linear.hpp"

namespace sparlow::cuda {

namespace nm24 = sparlow::kernels;

class Nm24Linear {
 public:
  Nm24Linear(const nm24::Nm24Device& device, Workspaces& mailboxes) : device_(device), mailboxes_(mailboxes) {}

  std::size_t packed_bytes(const LinearShape& shape) const;
  void pack(const LinearShape& shape, int part, Index rank, const LinearTensors& from, void* packed,
            cudaStream_t stream) const;
  void unpack(const LinearShape& shape, int part, const void* packed, const LinearTensors& to,
              cudaStream_t stream) const;
  void forward(const LinearShape& shape, int part, const void* packed, const void* bias, const void* x, void* y,
               Index tokens, cudaStream_t stream);
  std::string_view kernel(const LinearShape& shape, Index tokens) const;

 private:
  void run(const nm24::Nm24Shape& shape, nm24::Nm24Call& call, cudaStream_t stream);

  nm24::Nm24Device device_;
  Workspaces& mailboxes_;
  Workspaces scratch_;  // apart: what is written to the scratch must not look like mail
};

}  // namespace sparlow::cuda
