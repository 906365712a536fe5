// cuBLAS and cuSOLVER, the copies that the library's CUDA plugin has loaded: found at run time, so that a bench starts
// on machines without them.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <string>

#include "sparlow/view.hpp"

namespace sparlow::bench {

void check(cudaError_t status, const char* call);  // throws Error(internal) that names the call

class CudaLibraries {
 public:
  explicit CudaLibraries(cudaStream_t stream);
  ~CudaLibraries();
  CudaLibraries(const CudaLibraries&) = delete;

  std::string version() const;
  // y [rows, cols] = x [rows, inner] w^T, row-major. Sums in f32.
  void product(const void* x, const void* w, void* y, int rows, int cols, int inner, DType dtype) const;
  // Column-major or symmetric, f32, as LAPACK does it.
  void invert(float* a, int n);
  void orthonormalise(float* a, int rows, int cols);

 private:
  float* work(int count);
  void *blas_library_, *solver_library_;
  cublasHandle_t blas_ = nullptr;
  cusolverDnHandle_t solver_ = nullptr;
  void* workspace_ = nullptr;
  int* info_ = nullptr;
  float* work_ = nullptr;
  int work_size_ = 0;
};

}  // namespace sparlow::bench
