#include "sparlow/plugin.hpp"

#include "backend/cuda_backend.hpp"
#include "formats/linear.hpp"

extern "C" {

__attribute__((visibility("default"))) int sparlow_cuda_abi() { return sparlow::kPluginAbi; }

__attribute__((visibility("default"))) sparlow::Backend* sparlow_cuda_make_backend(int device, std::uintptr_t stream) {
  return new sparlow::cuda::CudaBackend(device, reinterpret_cast<cudaStream_t>(stream));
}

__attribute__((visibility("default"))) sparlow::LinearOps* sparlow_cuda_make_linear_ops(int device) {
  return new sparlow::cuda::CudaLinear(device);
}
}
