#include "cuda_linears.hpp"

#include <algorithm>
#include <stdexcept>

namespace llama::cuda {
namespace {

namespace embed = sparlow::embed;

constexpr std::int64_t kSize = 2;  // bytes of an element

void copy(void* to, const void* data, sparlow_dtype from, sparlow_dtype to_type, std::int64_t count) {
  Arena arena;
  check(cudaMemcpy(to, arena.as(data, from, to_type, count), static_cast<std::size_t>(count * kSize),
                   cudaMemcpyHostToDevice),
        "copying weights to the GPU");
}

}  // namespace

DeviceMemory upload(const void* data, sparlow_dtype from, sparlow_dtype to, std::int64_t count) {
  DeviceMemory out(count * kSize);
  copy(out.data(), data, from, to, count);
  return out;
}

Linears::Linears(const embed::Context& context, std::vector<LinearWeights> layers, sparlow_dtype dtype)
    : dtype_(dtype), d_in_(layers.at(0).info.d_in) {
  merged_ = std::none_of(layers.begin(), layers.end(), [](const LinearWeights& l) { return l.compressed; });
  for (LinearWeights& linear : layers) {
    members_.push_back({linear.name, linear.info.d_out, d_out_, nullptr, {}, {}});
    d_out_ += linear.info.d_out;
  }
  if (merged_) merged_weights_ = DeviceMemory(d_out_ * d_in_ * kSize);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (!layers[i].compressed) {
      add_dense(members_[i], layers[i]);
      continue;
    }
    Arena arena;
    arena.as(layers[i], dtype);
    try {
      members_[i].compressed = std::make_unique<embed::Layer>(context, layers[i].info, layers[i].tensors);
    } catch (const embed::Failure& failure) {
      throw std::runtime_error("layer '" + layers[i].name + "': " + failure.what());
    }
  }
}

void Linears::add_dense(Member& member, const LinearWeights& linear) {
  const sparlow_layer_info& info = linear.info;
  const std::int64_t count = info.d_out * info.d_in;
  if (merged_)
    copy(merged_weights_.data() + member.first * d_in_ * kSize, linear.tensors.values, info.dtype, dtype_, count);
  else member.dense = upload(linear.tensors.values, info.dtype, dtype_, count);
  if (linear.tensors.bias != nullptr) member.bias = upload(linear.tensors.bias, info.dtype, dtype_, info.d_out);
}

Strided Linears::output(std::size_t layer, int rows, void* out) const {
  const Member& member = members_[layer];
  std::byte* begin = static_cast<std::byte*>(out) + member.first * (merged_ ? 1 : rows) * kSize;
  return {begin, merged_ ? d_out_ : member.d_out};
}

void Linears::multiply(const Blas& blas, const DeviceMemory& w, std::int64_t d_out, const void* x, int rows,
                       const Strided& y) const {
  const cudaDataType_t type = dtype_ == SPARLOW_BF16 ? CUDA_R_16BF : CUDA_R_16F;
  const float one = 1, zero = 0;
  // cuBLAS counts columns first: yᵀ [d_out, rows] = w xᵀ.
  check(cublasGemmEx(blas.get(), CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(d_out), rows, static_cast<int>(d_in_), &one,
                     w.data(), type, static_cast<int>(d_in_), x, type, static_cast<int>(d_in_), &zero, y.data, type,
                     static_cast<int>(y.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

void Linears::forward(const Blas& blas, const void* x, int rows, void* out, cudaStream_t stream) const {
  if (rows == 0) return;
  if (merged_) multiply(blas, merged_weights_, d_out_, x, rows, {out, d_out_});
  static const embed::Workspace kNone(0);
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const Member& member = members_[i];
    const Strided y = output(i, rows, out);
    if (member.compressed != nullptr) member.compressed->forward(x, y.data, rows, kNone, stream);
    else if (!merged_) multiply(blas, member.dense, member.d_out, x, rows, y);
    if (member.bias.data() != nullptr)
      add_bias(dtype_, rows, y, member.bias.data(), static_cast<int>(member.d_out), stream);
  }
}

}  // namespace llama::cuda
