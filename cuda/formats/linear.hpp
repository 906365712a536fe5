// Layers that run packed on one GPU: which of the formats answers for a shape.
#pragma once

#include "formats/bits_linear.hpp"
#include "formats/nm24_linear.hpp"

namespace sparlow::cuda {

class CudaLinear final : public LinearOps {
 public:
  explicit CudaLinear(int device);

 protected:
  std::int64_t do_packed_bytes(const LinearShape& shape) const override;
  void do_pack(const LinearShape& shape, int part, Index rank, const LinearTensors& from, void* packed,
               Stream stream) const override;
  void do_unpack(const LinearShape& shape, int part, const void* packed, const LinearTensors& to,
                 Stream stream) const override;
  void do_forward(const LinearShape& shape, int part, const void* packed, const void* bias, const void* x, void* y,
                  Index tokens, Stream stream) override;
  void do_expand(const LinearShape& shape, const void* packed, void* w, Stream stream) const override;
  Index do_most_tokens(const LinearShape& shape) const override;
  std::string_view do_kernel(const LinearShape& shape, Index tokens) const override;

 private:
  int device_;
  Workspaces mailboxes_;
  Nm24Linear nm24_;
  BitsLinear bits_;
};

}  // namespace sparlow::cuda
