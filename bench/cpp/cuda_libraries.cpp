#include "cuda_libraries.hpp"

#include <dlfcn.h>

#include <algorithm>

#include "sparlow/error.hpp"

namespace sparlow::bench {
namespace {

constexpr std::size_t kWorkspace = 64 << 20;  // of cuBLAS: a captured product may not allocate

void* open_library(const char* name) {
  void* library = dlopen(name, RTLD_NOW);
  if (library == nullptr) fail(ErrorCode::unavailable, "the dense baseline needs ", name, ": ", dlerror());
  return library;
}

template <typename Function>
Function* load(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr) fail(ErrorCode::unavailable, "the dense baseline needs ", name, ": ", dlerror());
  return reinterpret_cast<Function*>(found);
}

void check_status(int status, const char* call) {
  if (status != 0) fail(ErrorCode::internal, call, " failed with status ", status);
}

// Names in the headers are macros for names with a version.
#define SPARLOW_BENCH_TEXT2(name) #name
#define SPARLOW_BENCH_TEXT(name) SPARLOW_BENCH_TEXT2(name)
#define SPARLOW_BENCH_CALL(library, name, ...) \
  check_status(load<decltype(name)>(library, SPARLOW_BENCH_TEXT(name))(__VA_ARGS__), SPARLOW_BENCH_TEXT(name))

// cublasGemmEx, of which the C++ header makes an overload set.
using GemmEx = cublasStatus_t(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*,
                              const void*, cudaDataType, int, const void*, cudaDataType, int, const void*, void*,
                              cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

cudaDataType type_of(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) fail(ErrorCode::internal, call, ": ", cudaGetErrorString(status));
}

CudaLibraries::CudaLibraries(cudaStream_t stream)
    : blas_library_(open_library("libcublas.so.13")), solver_library_(open_library("libcusolver.so.12")) {
  SPARLOW_BENCH_CALL(blas_library_, cublasCreate, &blas_);
  SPARLOW_BENCH_CALL(blas_library_, cublasSetStream, blas_, stream);
  check(cudaMalloc(&workspace_, kWorkspace), "cudaMalloc");
  check(cudaMalloc(reinterpret_cast<void**>(&info_), sizeof(int)), "cudaMalloc");
  SPARLOW_BENCH_CALL(blas_library_, cublasSetWorkspace, blas_, workspace_, kWorkspace);
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnCreate, &solver_);
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSetStream, solver_, stream);
}

CudaLibraries::~CudaLibraries() {
  load<decltype(cusolverDnDestroy)>(solver_library_, "cusolverDnDestroy")(solver_);
  load<decltype(cublasDestroy)>(blas_library_, SPARLOW_BENCH_TEXT(cublasDestroy))(blas_);
  cudaFree(work_);
  cudaFree(info_);
  cudaFree(workspace_);
}

std::string CudaLibraries::version() const {
  int version = 0;
  SPARLOW_BENCH_CALL(blas_library_, cublasGetVersion, blas_, &version);
  return "cuBLAS " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

// Row-major y = x w^T is column-major y^T = w x^T.
void CudaLibraries::product(const void* x, const void* w, void* y, int rows, int cols, int inner, DType dtype) const {
  const float one = 1, zero = 0;
  const cudaDataType type = type_of(dtype);
  check_status(load<GemmEx>(blas_library_, "cublasGemmEx")(blas_, CUBLAS_OP_T, CUBLAS_OP_N, cols, rows, inner, &one, w,
                                                           type, inner, x, type, inner, &zero, y, type, cols,
                                                           CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
               "cublasGemmEx");
}

float* CudaLibraries::work(int count) {
  if (count > work_size_) {
    check(cudaFree(work_), "cudaFree");
    check(cudaMalloc(reinterpret_cast<void**>(&work_), static_cast<std::size_t>(count) * sizeof(float)), "cudaMalloc");
    work_size_ = count;
  }
  return work_;
}

void CudaLibraries::invert(float* a, int n) {
  int factor = 0, inverse = 0;
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSpotrf_bufferSize, solver_, CUBLAS_FILL_MODE_LOWER, n, a, n, &factor);
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSpotri_bufferSize, solver_, CUBLAS_FILL_MODE_LOWER, n, a, n, &inverse);
  float* memory = work(std::max(factor, inverse));
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSpotrf, solver_, CUBLAS_FILL_MODE_LOWER, n, a, n, memory, factor,
                     info_);
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSpotri, solver_, CUBLAS_FILL_MODE_LOWER, n, a, n, memory, inverse,
                     info_);
}

void CudaLibraries::orthonormalise(float* a, int rows, int cols) {
  int factor = 0, basis = 0;
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSgeqrf_bufferSize, solver_, rows, cols, a, rows, &factor);
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSorgqr_bufferSize, solver_, rows, cols, cols, a, rows, a, &basis);
  float* tau = work(std::max(factor, basis) + cols);
  float* memory = tau + cols;
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSgeqrf, solver_, rows, cols, a, rows, tau, memory, factor, info_);
  SPARLOW_BENCH_CALL(solver_library_, cusolverDnSorgqr, solver_, rows, cols, cols, a, rows, tau, memory, basis, info_);
}

}  // namespace sparlow::bench
