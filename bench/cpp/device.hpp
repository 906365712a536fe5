// What a bench needs of a machine beyond the library: memory, a stream, clocks, a dense product, ceilings.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "json.hpp"
#include "sparlow/view.hpp"
#include "statistics.hpp"

namespace sparlow::bench {

// Something to time. run(i) makes call number i, on a GPU by enqueuing it; calls `copies` apart touch the same memory.
struct Way {
  std::function<void(int)> run;
  int copies = 1;
  bool dense = false;   // calls the dense library, which on a CPU has threads of its own
  bool queued = false;  // only enqueues work: on a GPU it is timed as a CUDA graph
};

class Device {
 public:
  virtual ~Device() = default;

  virtual std::string name() const = 0;  // as make_backend takes it
  virtual Json facts() const = 0;        // hardware, drivers, libraries
  virtual std::uintptr_t stream() const { return 0; }
  virtual std::int64_t cache_bytes() const = 0;  // of the last level
  virtual std::shared_ptr<void> allocate(std::int64_t bytes) = 0;
  virtual void upload(void* device, const void* host, std::int64_t bytes) = 0;
  virtual void download(void* host, const void* device, std::int64_t bytes) = 0;

  // Seconds of one call of each way. The ways take turns, so that a disturbance meets all of them; the first calls do
  // not count.
  virtual std::vector<Spread> measure(const std::vector<Way>& ways, int repeats) = 0;

  // The library and element type that layers of `dtype` are compared with, such as "cuBLAS bf16".
  virtual std::string dense_name(DType dtype) const = 0;
  virtual DType dense_dtype(DType dtype) const = 0;
  // y [tokens, d_out] = x [tokens, d_in] w^T, w [d_out, d_in], all in dense_dtype.
  virtual void dense(const void* x, const void* w, void* y, Index tokens, Index d_out, Index d_in, DType dtype) = 0;
  // The library's own inverse of a positive definite matrix and orthonormal basis, f32: a factor call overwrites
  // `a` [n, n]; a basis call overwrites `a` [cols, rows], whose rows become orthonormal.
  virtual void invert(void* a, Index n) = 0;
  virtual void orthonormalise(void* a, Index rows, Index cols) = 0;

  virtual Spread read_seconds(std::int64_t bytes) = 0;  // of a pass over memory that only reads
};

// "cpu", "cuda" or "cuda:N". Throws Error(unavailable) where a GPU or this build's support for it is missing.
std::unique_ptr<Device> make_device(const std::string& name);
std::unique_ptr<Device> make_cpu_device();
std::unique_ptr<Device> make_cuda_device(const std::string& name);

// What this machine reaches in a plain read and in plain products, measured now: the fastest of some, for a ceiling
// must not be lower because something else ran.
struct Ceilings {
  double bytes_per_s = 0;
  double flops = 0;
  std::string product;  // which
  Json json() const;
};
Ceilings measure_ceilings(Device& device, DType dtype, bool quick);

// How many copies of `bytes` must take turns to come from memory and not from a cache.
int cold_copies(const Device& device, std::int64_t bytes);

}  // namespace sparlow::bench
