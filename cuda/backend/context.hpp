// One device, one stream, one memory pool, and the library handles bound to them. Kept alive by every allocation.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <map>
#include <memory>

#include "sparlow/error.hpp"

namespace sparlow::cuda {

// Throw Error: out_of_memory, unavailable or internal, naming the call.
void check(cudaError_t status, const char* call);
void check(cublasStatus_t status, const char* call);
void check(cusolverStatus_t status, const char* call);

// Throws Error(unavailable) that says what is missing: driver, GPU, or code for this GPU.
void check_device(int device);

class Context : public std::enable_shared_from_this<Context> {
 public:
  Context(int device, cudaStream_t stream);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  cudaStream_t stream() const { return stream_; }
  cublasHandle_t blas() const { return blas_; }
  cusolverDnHandle_t solver();

  // Stream-ordered memory; not cleared. Blocks that come back are handed out again without a call to the driver.
  std::shared_ptr<void> allocate(std::size_t bytes);
  // Waits, so that `value` on the host is complete.
  void fetch(const void* device, void* host, std::size_t bytes);
  void wait() { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  // Makes the device current on this thread for a scope.
  class Bind {
   public:
    explicit Bind(const Context& context);
    ~Bind();

   private:
    int previous_ = 0, device_;
  };

 private:
  void* take(std::size_t bytes);
  void give_back(void* memory, std::size_t bytes);
  void drop_spares();
  [[noreturn]] void report_full(std::size_t bytes) const;

  int device_;
  cudaStream_t stream_;
  cudaMemPool_t pool_ = nullptr;
  void* workspace_ = nullptr;
  std::multimap<std::size_t, void*> spares_;  // by size
  std::size_t spare_bytes_ = 0;
  cublasHandle_t blas_ = nullptr;
  cusolverDnHandle_t solver_ = nullptr;
};

// A typed temporary; returns to the pool, in stream order, when it goes out of scope.
template <typename T>
class Temporary {
 public:
  Temporary(Context& context, std::int64_t count)
      : memory_(context.allocate(static_cast<std::size_t>(count) * sizeof(T))) {}
  T* get() const { return static_cast<T*>(memory_.get()); }
  operator T*() const { return get(); }

 private:
  std::shared_ptr<void> memory_;
};

}  // namespace sparlow::cuda
