// Linear layers that read the same input, on a GPU: compressed ones by sparlow, dense ones by cuBLAS.
#pragma once

#include <memory>
#include <vector>

#include "cuda_ops.hpp"
#include "cuda_support.hpp"
#include "weights.hpp"

namespace llama::cuda {

class Linears {
 public:
  // Their weights go to the GPU; dense layers become one matrix if all of them are.
  Linears(const sparlow::embed::Context& context, std::vector<LinearWeights> layers, sparlow_dtype dtype);

  std::int64_t d_out() const { return d_out_; }  // of all together
  // Enqueues y = x wᵀ + bias on blas's stream. x [rows, d_in], out: memory for rows d_out() elements.
  void forward(const Blas& blas, const void* x, int rows, void* out, cudaStream_t stream) const;
  // Where `forward` of so many rows puts the outputs of a layer.
  Strided output(std::size_t layer, int rows, void* out) const;

 private:
  struct Member {
    std::string name;
    std::int64_t d_out, first;  // rows before it
    std::unique_ptr<sparlow::embed::Layer> compressed;
    DeviceMemory dense, bias;  // bias of a dense layer
  };
  void add_dense(Member& member, const LinearWeights& linear);
  void multiply(const Blas& blas, const DeviceMemory& w, std::int64_t d_out, const void* x, int rows,
                const Strided& y) const;

  sparlow_dtype dtype_;
  std::int64_t d_in_, d_out_ = 0;
  bool merged_;
  DeviceMemory merged_weights_;
  std::vector<Member> members_;
};

// A tensor in that type on the GPU.
DeviceMemory upload(const void* data, sparlow_dtype from, sparlow_dtype to, std::int64_t count);

}  // namespace llama::cuda
