// Between f32, f16 and f64. f16 keeps 11 significant bits like TF32 and multiplies twice as fast; a power of two per
// row or per matrix takes the place of the exponent bits it lacks.
#include "launch.cuh"

namespace sparlow::cuda::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kLargestExponent = 14;  // scaled entries stay below 2^15, half of what f16 holds
constexpr float kLowScale = 2048;     // 2^11

// The power of two that brings `largest` into [2^14, 2^15); 1 for 0, Inf and NaN.
__device__ float half_scale(float largest) {
  if (!(largest > 0) || !(largest < __int_as_float(0x7f800000))) return 1;
  return ldexpf(1.0f, min(kLargestExponent - ilogbf(largest), 126));
}

__device__ float block_max(float value, float* shared) {
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float most = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) most = fmaxf(most, shared[warp]);
  return most;
}

template <int V>
__device__ void store(__half* out, const Pack<V>& pack) {
  if constexpr (V == 4) {
    const __half2 two[2] = {__floats2half2_rn(pack.v[0], pack.v[1]), __floats2half2_rn(pack.v[2], pack.v[3])};
    *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(two);
  } else {
    *out = __float2half_rn(pack.v[0]);
  }
}

// One row a block; the second pass over the row comes from the cache.
template <int V>
__global__ void __launch_bounds__(kThreads) rows_to_half_kernel(Size cols, ConstFloats x, __half* out, float* unscale) {
  __shared__ float shared[kThreads / 32];
  const float* row = x.row(blockIdx.x);
  float most = 0;
  for (Size j = threadIdx.x * V; j < cols; j += kThreads * V) {
    const Pack<V> pack = load<V>(row + j);
    for (float value : pack.v) most = fmaxf(most, fabsf(value));
  }
  const float scale = half_scale(block_max(most, shared));
  for (Size j = threadIdx.x * V; j < cols; j += kThreads * V) {
    Pack<V> pack = load<V>(row + j);
    for (float& value : pack.v) value *= scale;
    store<V>(out + blockIdx.x * cols + j, pack);
  }
  if (threadIdx.x == 0) unscale[blockIdx.x] = 1 / scale;
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    split_half_kernel(Size rows, Size cols, ConstFloats x, const unsigned* largest, __half* high, __half* low) {
  const float scale = half_scale(__uint_as_float(*largest));
  for (Size i = blockIdx.y; i < rows; i += gridDim.y)
    for (Size j = (blockIdx.x * Size(kThreads) + threadIdx.x) * V; j < cols; j += Size(gridDim.x) * kThreads * V) {
      Pack<V> pack = load<V>(x.row(i) + j), rest;
      for (int k = 0; k < V; ++k) {
        pack.v[k] *= scale;
        rest.v[k] = (pack.v[k] - __half2float(__float2half_rn(pack.v[k]))) * kLowScale;
      }
      store<V>(high + i * cols + j, pack);
      store<V>(low + i * cols + j, rest);
    }
}

}  // namespace

cudaError_t to_half(Size rows, Size cols, ConstFloats x, __half* out, cudaStream_t stream) {
  return for_packs(rows, cols, packs(cols, x), stream, [=] __device__(Size i, Size j, auto width) {
    constexpr int V = decltype(width)::value;
    store<V>(out + i * cols + j, load<V>(x.row(i) + j));
  });
}

cudaError_t polynomial_terms(Size count, float c0, float c1, float c2, float c3, float* x, const float* y,
                             __half* y_half, __half* tail, cudaStream_t stream) {
  return for_each(1, count, stream, [=] __device__(Size, Size j) {
    const float first = x[j], second = y[j];
    y_half[j] = __float2half_rn(second);
    tail[j] = __float2half_rn(c2 * first + c3 * second);
    x[j] = c0 * first + c1 * second;
  });
}

cudaError_t rows_to_half(Size rows, Size cols, ConstFloats x, __half* out, float* unscale, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const unsigned blocks = static_cast<unsigned>(rows);
  if (packs(cols, x)) rows_to_half_kernel<4><<<blocks, kThreads, 0, stream>>>(cols, x, out, unscale);
  else rows_to_half_kernel<1><<<blocks, kThreads, 0, stream>>>(cols, x, out, unscale);
  return cudaGetLastError();
}

cudaError_t largest_bits(Size rows, Size cols, ConstFloats x, unsigned* largest, cudaStream_t stream) {
  // Non-negative floats order like their bit patterns, and a maximum does not depend on the order of arrival.
  return for_each(rows, std::min<Size>(cols, 256), stream, [=] __device__(Size i, Size j) {
    unsigned most = 0;
    for (Size k = j; k < cols; k += 256) {
      const unsigned bits = __float_as_uint(fabsf(x.row(i)[k]));
      if (bits < 0x7f800000u) most = max(most, bits);
    }
    most = __reduce_max_sync(__activemask(), most);
    if (most > *static_cast<volatile unsigned*>(largest)) atomicMax(largest, most);
  });
}

cudaError_t split_half(Size rows, Size cols, ConstFloats x, const unsigned* largest, __half* high, __half* low,
                       cudaStream_t stream) {
  const bool wide = packs(cols, x);
  const Size width = kThreads * (wide ? 4 : 1);
  const dim3 grid(static_cast<unsigned>((cols + width - 1) / width),
                  static_cast<unsigned>(std::min<Size>(rows, 65535)));
  if (wide) split_half_kernel<4><<<grid, kThreads, 0, stream>>>(rows, cols, x, largest, high, low);
  else split_half_kernel<1><<<grid, kThreads, 0, stream>>>(rows, cols, x, largest, high, low);
  return cudaGetLastError();
}

cudaError_t split_factors(float alpha, float beta, const unsigned* largest_a, const unsigned* largest_b, float* factors,
                          cudaStream_t stream) {
  return for_each(1, 1, stream, [=] __device__(Size, Size) {
    const float unscaled = alpha / half_scale(__uint_as_float(*largest_a)) / half_scale(__uint_as_float(*largest_b));
    factors[0] = unscaled;
    factors[1] = unscaled / kLowScale;
    factors[2] = beta;
    factors[3] = 1;
  });
}

cudaError_t to_double(Size rows, Size cols, Size once, ConstFloats x, double* out, cudaStream_t stream) {
  return for_packs(rows, cols, packs(cols, x) && once % 4 == 0, stream, [=] __device__(Size i, Size j, auto width) {
    constexpr int V = decltype(width)::value;
    const Pack<V> value = load<V>(x.row(i) + j);
    const double factor = j < once ? 1 : 2;
    Pack<V, double> exact;
    for (int k = 0; k < V; ++k) exact.v[k] = factor * value.v[k];
    store<V>(out + i * cols + j, exact);
  });
}

cudaError_t transpose_to_float(Size size, const double* x, Floats out, cudaStream_t stream) {
  return for_each(size, size, stream,
                  [=] __device__(Size i, Size j) { out.row(i)[j] = static_cast<float>(x[j * size + i]); });
}

cudaError_t to_float(Size count, const double* x, float* out, cudaStream_t stream) {
  return for_each(1, count, stream, [=] __device__(Size, Size j) { out[j] = static_cast<float>(x[j]); });
}

}  // namespace sparlow::cuda::kernels
