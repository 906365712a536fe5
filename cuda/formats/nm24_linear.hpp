// Layers in the format nm24 on one GPU. The packed buffer holds the kernels' weights, u and v, each at a multiple of
// 256.
#pragma once

#include "formats/workspaces.hpp"
#include "kernels/nm24.hpp"
#include "sparlow/linear.hpp"

namespace sparlow::cuda {

namespace nm24 = sparlow::kernels;

class Nm24Linear final : public LinearOps {
 public:
  explicit Nm24Linear(int device);

 protected:
  std::int64_t do_packed_bytes(const LinearShape& shape) const override;
  void do_pack(const LinearShape& shape, const LinearTensors& from, void* packed, Stream stream) const override;
  void do_unpack(const LinearShape& shape, const void* packed, const LinearTensors& to, Stream stream) const override;
  void do_forward(const LinearShape& shape, const void* packed, const void* bias, const void* x, void* y, Index tokens,
                  Stream stream) override;
  std::string_view do_kernel(const LinearShape& shape, Index tokens) const override;

 private:
  void run(const nm24::Nm24Shape& shape, nm24::Nm24Call& call, cudaStream_t stream);

  int device_;
  nm24::Nm24Device properties_{};
  Workspaces mailboxes_, scratch_;  // apart: what is written to the scratch must not look like mail
};

}  // namespace sparlow::cuda
