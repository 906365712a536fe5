// A layer in the checkpoint's layout, what it gives in float64 on the host, and runs of it on the GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../cuda/kernels/nm24.hpp"

namespace nm24_test {

using namespace sparlow::kernels;

inline int failures = 0, checks = 0;

#define CHECK(call)                                                                          \
  do {                                                                                       \
    const cudaError_t status_ = (call);                                                      \
    if (status_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status_)); \
      std::_Exit(2);                                                                         \
    }                                                                                        \
  } while (0)

template <typename T>
T narrow(float x) {
  if constexpr (std::is_same_v<T, __half>) return __float2half(x);
  else return __float2bfloat16(x);
}
inline float widen(__half x) { return __half2float(x); }
inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
struct Buffer {
  T* data = nullptr;
  std::size_t size = 0;
  explicit Buffer(std::size_t n) : size(n) { CHECK(cudaMalloc(&data, (n + 64) * sizeof(T))); }
  explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) {
    CHECK(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(data); }
  std::vector<T> host(std::size_t extra = 0) const {
    std::vector<T> out(size + extra);
    CHECK(cudaMemcpy(out.data(), data, out.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
};

// One layer in the checkpoint's layout, with groups of two, one and no non-zeros, -0.0 and whole zero rows.
template <typename T>
struct Checkpoint {
  int rows, d_in, rank;
  std::vector<T> values, u, v;
  std::vector<std::uint8_t> meta;

  Checkpoint(int rows, int d_in, int rank, std::mt19937& random)
      : rows(rows),
        d_in(d_in),
        rank(rank),
        values(std::size_t(rows) * d_in / 2),
        u(std::size_t(rows) * rank),
        v(std::size_t(rank) * d_in),
        meta(std::size_t(rows) * ((d_in + 7) / 8)) {
    std::normal_distribution<float> normal(0.f, 1.f);
    constexpr int legal[6] = {0x4, 0x8, 0xC, 0x9, 0xD, 0xE};
    for (int r = 0; r < rows; ++r)
      for (int g = 0; g < d_in / 4; ++g) {
        meta[std::size_t(r) * ((d_in + 7) / 8) + g / 2] |= legal[random() % 6] << (4 * (g % 2));
        for (int i = 0; i < 2; ++i) {
          const unsigned kind = random() % 16;
          const float value = r % 37 == 5 || kind == 0 ? 0.f : kind == 1 ? -0.f : normal(random);
          values[std::size_t(r) * (d_in / 2) + 2 * g + i] = narrow<T>(value);
        }
      }
    for (auto& e : u) e = narrow<T>(normal(random));
    for (auto& e : v) e = narrow<T>(normal(random) * .25f);
  }
  double sparse(int row, const float* x) const {
    double sum = 0;
    for (int g = 0; g < d_in / 4; ++g) {
      const int byte = meta[std::size_t(row) * ((d_in + 7) / 8) + g / 2], nibble = g % 2 ? byte >> 4 : byte & 15;
      const T* pair = &values[std::size_t(row) * (d_in / 2) + 2 * g];
      sum += double(widen(pair[0])) * x[4 * g + (nibble & 3)] + double(widen(pair[1])) * x[4 * g + (nibble >> 2)];
    }
    return sum;
  }
};

template <typename T>
std::vector<float> widen(const std::vector<T>& from) {
  std::vector<float> to;
  for (const T& e : from) to.push_back(widen(e));
  return to;
}

template <typename T>
struct Layer {
  Nm24Shape shape;
  std::vector<Checkpoint<T>> parts;
  std::vector<T> bias;
  Nm24Bytes bytes;
  Buffer<unsigned char> weights, u, v;

  Layer(const std::vector<int>& rows, int d_in, const std::vector<int>& ranks, std::mt19937& random)
      : shape(make_shape(rows, d_in, ranks)),
        bytes(nm24_bytes(shape)),
        weights(bytes.weights),
        u(bytes.u + 16),
        v(bytes.v + 16) {
    for (std::size_t p = 0; p < rows.size(); ++p) {
      parts.emplace_back(rows[p], d_in, ranks[p], random);
      const Checkpoint<T>& c = parts.back();
      Buffer<T> values(c.values), from_u(c.u), from_v(c.v);
      Buffer<std::uint8_t> meta(c.meta);
      CHECK(nm24_pack(shape, static_cast<int>(p), {values.data, meta.data, from_u.data, from_v.data, c.rank},
                      weights.data, u.data, v.data, nullptr));
      CHECK(cudaDeviceSynchronize());
    }
    for (int r = 0; r < shape.d_out(); ++r) bias.push_back(narrow<T>(float(int(random() % 200) - 100) * .01f));
  }
  static Nm24Shape make_shape(const std::vector<int>& rows, int d_in, const std::vector<int>& ranks) {
    Nm24Shape s{};
    s.d_in = d_in, s.parts = static_cast<int>(rows.size());
    for (std::size_t p = 0; p < rows.size(); ++p) s.rows[p] = rows[p], s.rank = std::max(s.rank, ranks[p]);
    return s;
  }
  std::vector<double> reference(const std::vector<T>& from_x, int tokens, bool with_bias) const {
    const std::vector<float> x = widen(from_x);
    std::vector<double> y(std::size_t(tokens) * shape.d_out());
    int first = 0;
    for (const Checkpoint<T>& c : parts) {
      const std::vector<float> u32 = widen(c.u), v32 = widen(c.v);
      for (int n = 0; n < tokens; ++n) {
        const float* row = &x[std::size_t(n) * shape.d_in];
        std::vector<double> t(c.rank);
        for (int k = 0; k < c.rank; ++k)
          for (int j = 0; j < c.d_in; ++j) t[k] += double(v32[std::size_t(k) * c.d_in + j]) * row[j];
        for (int r = 0; r < c.rows; ++r) {
          double sum = c.sparse(r, row) + (with_bias ? widen(bias[first + r]) : 0.);
          for (int k = 0; k < c.rank; ++k) sum += double(u32[std::size_t(r) * c.rank + k]) * t[k];
          y[std::size_t(n) * shape.d_out() + first + r] = sum;
        }
      }
      first += c.rows;
    }
    return y;
  }
};

inline void fail(const std::string& what, double value) {
  ++failures;
  std::printf("FAIL %s: %g\n", what.c_str(), value);
}

template <typename T>
std::vector<T> make_x(int tokens, int d_in, std::mt19937& random) {
  std::normal_distribution<float> normal(0.f, 1.f);
  std::vector<T> x(std::size_t(tokens) * d_in);
  for (auto& e : x) e = narrow<T>(normal(random));
  return x;
}

// Shared by all layers, as in a model.
inline void* workspace(std::size_t bytes) {
  static const Buffer<unsigned char> buffer(64 << 20);
  static bool zero = false;
  if (!zero) CHECK(cudaMemset(buffer.data, 0, buffer.size));
  zero = true;
  if (bytes > buffer.size) std::printf("workspace of %zu bytes\n", bytes), std::exit(2);
  return buffer.data;
}

inline void* scratch(std::size_t bytes) {
  static const Buffer<unsigned char> buffer(std::vector<unsigned char>(64 << 20, 0xff));
  if (bytes > buffer.size) std::printf("scratch of %zu bytes\n", bytes), std::exit(2);
  return buffer.data;
}

template <typename T>
struct Run {
  Layer<T>& layer;
  int tokens;
  bool with_bias;
  Nm24Plan plan;
  std::size_t x_offset;  // elements by which x misses a multiple of 16 bytes
  Buffer<T> bias, x, y;

  Run(Layer<T>& layer, const std::vector<T>& from, int tokens, bool with_bias, const Nm24Plan& plan,
      std::size_t x_offset)
      : layer(layer),
        tokens(tokens),
        with_bias(with_bias),
        plan(plan),
        x_offset(x_offset),
        bias(layer.bias),
        x(from.size()),
        y(std::size_t(tokens) * layer.shape.d_out()) {
    CHECK(cudaMemcpy(x.data + x_offset, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void launch(cudaStream_t stream, bool overlap = false) {
    const Nm24Call call{layer.weights.data,
                        layer.u.data,
                        layer.v.data,
                        with_bias ? bias.data : nullptr,
                        x.data + x_offset,
                        y.data,
                        workspace(plan.workspace),
                        scratch(plan.scratch),
                        tokens,
                        std::is_same_v<T, __half> ? Half::float16 : Half::bfloat16,
                        overlap};
    CHECK(nm24_forward(layer.shape, plan, call, stream));
  }
  // With sixteen elements behind y, which must stay as they are.
  std::vector<T> result(bool overlap = false) {
    CHECK(cudaMemset(y.data, 0xff, (y.size + 16) * sizeof(T)));
    launch(nullptr, overlap);
    CHECK(cudaDeviceSynchronize());
    return y.host(16);
  }
};

template <typename T>
double error_of(const std::vector<T>& y, const std::vector<double>& want) {
  double difference = 0, norm = 1e-300;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = widen(y[i]) - want[i];
    difference += d * d, norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

template <typename T>
void check(Layer<T>& layer, const std::vector<T>& x, const std::vector<double>& want, int tokens, bool with_bias,
           const Nm24Plan& plan, std::size_t x_offset, const std::string& what) {
  ++checks;
  Run<T> run(layer, x, tokens, with_bias, plan, x_offset);
  const std::vector<T> y = run.result(), again = run.result();
  // Of many results the mean rounding error of y, of a few the largest that rounding can make.
  const double mean = std::is_same_v<T, __half> ? 3.2e-4 : 2.4e-3,
               largest = std::is_same_v<T, __half> ? 4.9e-4 : 3.9e-3;
  const double error = error_of(y, want), limit = want.size() < 64 ? largest : mean;
  if (!(error < limit)) fail(what, error);
  if (std::memcmp(y.data(), again.data(), y.size() * sizeof(T)) != 0) fail(what + " twice", 0);
  for (std::size_t i = want.size(); i < y.size(); ++i)
    if (std::memcmp(&y[i], "\xff\xff", 2) != 0) return fail(what + " wrote behind y", double(i - want.size()));
}

}  // namespace nm24_test
