// Memory, streams and graphs that free themselves; CUDA's failures as exceptions.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace llama::cuda {

// Throw std::runtime_error saying what failed.
void check(cudaError_t error, const char* what);
void check(cublasStatus_t status, const char* what);

// "cuda" or "cuda:N". Throws std::runtime_error for another word or a number without a device.
int device_number(const std::string& device);

class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::int64_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceMemory() { cudaFree(data_); }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// Host memory that a GPU copies from and to without the driver's help.
class PinnedMemory {
 public:
  explicit PinnedMemory(std::int64_t bytes);
  PinnedMemory(const PinnedMemory&) = delete;
  ~PinnedMemory() { cudaFreeHost(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

class Stream {
 public:
  Stream();
  Stream(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }
  void wait() const;

 private:
  cudaStream_t stream_ = nullptr;
};

// What was enqueued on a stream, to be enqueued again in one call.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  ~Graph();
  // Records what body() enqueues instead of running it.
  template <class Body>
  void record(cudaStream_t stream, Body&& body) {
    begin(stream);
    try {
      body();
    } catch (...) {
      abandon(stream);
      throw;
    }
    end(stream);
  }
  bool empty() const { return executable_ == nullptr; }
  void launch(cudaStream_t stream) const;

 private:
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream);
  static void abandon(cudaStream_t stream);

  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

class Blas {
 public:
  explicit Blas(cudaStream_t stream);
  Blas(const Blas&) = delete;
  ~Blas() { cublasDestroy(handle_); }
  cublasHandle_t get() const { return handle_; }

 private:
  static constexpr std::int64_t kWorkspace = std::int64_t{32} << 20;  // one of its own may not be captured
  DeviceMemory workspace_;
  cublasHandle_t handle_ = nullptr;
};

}  // namespace llama::cuda
