#include "cpu_ops.hpp"

#include <cmath>

namespace llama::cpu {
namespace {

// Calls body.template operator()<T>() for the type.
template <class Body>
LLAMA_INLINE void with_type(sparlow_dtype dtype, Body&& body) {
  if (dtype == SPARLOW_F32) body.template operator()<float>();
  else if (dtype == SPARLOW_BF16) body.template operator()<Bf16>();
  else body.template operator()<F16>();
}

// e^x within two units in the last place, for x of at most 88; a loop over it becomes vector code.
LLAMA_INLINE float exponential(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;  // 1.5 * 2^23: rounds
  const float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + c;
  const float value = p * r * r + r + 1.0f;
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(value) + (static_cast<std::int32_t>(n) << 23));
}

constexpr int kLanes = 16;

// Sums in lanes, which the compiler may not make of a single sum by itself.
template <class Term>
LLAMA_INLINE float sum_of(std::int64_t count, Term&& term) {
  float lanes[kLanes] = {}, sum = 0;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += term(i + l);
  for (; i < count; ++i) sum += term(i);
  for (int l = 0; l < kLanes; ++l) sum += lanes[l];
  return sum;
}

template <class T>
LLAMA_INLINE void add_norm_row(T* hidden, const T* y, const T* weight, float epsilon, T* out, std::int64_t width) {
  if (y != nullptr)
    for (std::int64_t i = 0; i < width; ++i) hidden[i] = from_float<T>(to_float(hidden[i]) + to_float(y[i]));
  const float squares = sum_of(width, [&](std::int64_t i) LLAMA_INLINE_LAMBDA {
    const float x = to_float(hidden[i]);
    return x * x;
  });
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon);
  for (std::int64_t i = 0; i < width; ++i)
    out[i] = from_float<T>(to_float(weight[i]) * rounded<T>(to_float(hidden[i]) * scale));
}

template <class T>
LLAMA_INLINE void rotate_head(T* x, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; ++i) {
    const float a = to_float(x[i]), b = to_float(x[i + half]);
    x[i] = from_float<T>(rounded<T>(a * cosines[i]) - rounded<T>(b * sines[i]));
    x[i + half] = from_float<T>(rounded<T>(b * cosines[i]) + rounded<T>(a * sines[i]));
  }
}

// In blocks of positions, each with the largest score so far: no memory that grows with the context.
template <class T>
LLAMA_INLINE void attend_head(const T* q, const T* k, const T* v, int count, int dim, T* out) {
  constexpr int kBlock = 64;
  float query[kMostDim], sums[kMostDim] = {}, scores[kBlock];
  float largest = -INFINITY, total = 0;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  for (int j = 0; j < dim; ++j) query[j] = to_float(q[j]);
  for (int first = 0; first < count; first += kBlock) {
    const int here = count - first < kBlock ? count - first : kBlock;
    float peak = largest;
    for (int i = 0; i < here; ++i) {
      const T* key = k + static_cast<std::int64_t>(first + i) * dim;
      scores[i] = scale * sum_of(dim, [&](std::int64_t j) LLAMA_INLINE_LAMBDA { return query[j] * to_float(key[j]); });
      peak = scores[i] > peak ? scores[i] : peak;
    }
    for (int i = here; i < kBlock; ++i) scores[i] = -INFINITY;
    const float fade = first == 0 ? 0.0f : exponential(largest - peak);
    for (int i = 0; i < kBlock; ++i) scores[i] = exponential(scores[i] - peak);
    total *= fade;
    for (int i = 0; i < here; ++i) total += scores[i];
    for (int j = 0; j < dim; ++j) sums[j] *= fade;
    for (int i = 0; i < here; ++i) {
      const T* value = v + static_cast<std::int64_t>(first + i) * dim;
      for (int j = 0; j < dim; ++j) sums[j] += scores[i] * to_float(value[j]);
    }
    largest = peak;
  }
  for (int j = 0; j < dim; ++j) out[j] = from_float<T>(sums[j] / total);
}

}  // namespace

LLAMA_MULTIVERSION void add_norm(sparlow_dtype dtype, void* hidden, const void* y, const void* weight, float epsilon,
                                 void* out, std::int64_t width) {
  with_type(dtype, [&]<class T>() LLAMA_INLINE_LAMBDA {
    add_norm_row(static_cast<T*>(hidden), static_cast<const T*>(y), static_cast<const T*>(weight), epsilon,
                 static_cast<T*>(out), width);
  });
}

LLAMA_MULTIVERSION void rotate(sparlow_dtype dtype, void* x, const float* cosines, const float* sines, int heads,
                               int dim) {
  with_type(dtype, [&]<class T>() LLAMA_INLINE_LAMBDA {
    for (int h = 0; h < heads; ++h) rotate_head(static_cast<T*>(x) + h * dim, cosines, sines, dim / 2);
  });
}

LLAMA_MULTIVERSION void silu_multiply(sparlow_dtype dtype, void* gate, const void* up, std::int64_t count) {
  with_type(dtype, [&]<class T>() LLAMA_INLINE_LAMBDA {
    T* to = static_cast<T*>(gate);
    const T* from = static_cast<const T*>(up);
    for (std::int64_t i = 0; i < count; ++i) {
      const float x = to_float(to[i]);
      to[i] = from_float<T>(rounded<T>(x / (1.0f + exponential(-x))) * to_float(from[i]));
    }
  });
}

LLAMA_MULTIVERSION void attend(sparlow_dtype dtype, const void* q, const void* k, const void* v, int count, int dim,
                               void* out) {
  with_type(dtype, [&]<class T>() LLAMA_INLINE_LAMBDA {
    attend_head(static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(v), count, dim,
                static_cast<T*>(out));
  });
}

}  // namespace llama::cpu
