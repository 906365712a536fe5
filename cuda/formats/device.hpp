// What the layers on a GPU share: the current device, addresses inside a packed buffer.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "backend/context.hpp"
#include "sparlow/linear.hpp"

namespace sparlow::cuda {

// Makes a device current on this thread for a scope.
class Bind {
 public:
  explicit Bind(int device) : device_(device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device_) check(cudaSetDevice(device_), "cudaSetDevice");
  }
  ~Bind() {
    if (previous_ != device_) cudaSetDevice(previous_);
  }
  Bind(const Bind&) = delete;

 private:
  int previous_ = 0, device_;
};

inline const char* at(const void* packed, std::size_t offset) { return static_cast<const char*>(packed) + offset; }
inline char* at(void* packed, std::size_t offset) { return static_cast<char*>(packed) + offset; }
inline cudaStream_t stream_of(LinearOps::Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
inline std::size_t aligned(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace sparlow::cuda
