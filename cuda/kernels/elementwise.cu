#include "launch.cuh"

namespace sparlow::cuda::kernels {

cudaError_t axpby(Size rows, Size cols, float alpha, ConstFloats x, float beta, Floats y, cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) {
    const float scaled = alpha * x.row(i)[j];
    y.row(i)[j] = beta == 0 ? scaled : scaled + beta * y.row(i)[j];
  });
}

cudaError_t shrink(Size rows, Size cols, float threshold, Floats x, cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) {
    const float value = x.row(i)[j], rest = fabsf(value) - threshold;
    x.row(i)[j] = rest <= 0 ? 0.0f : copysignf(rest, value);
  });
}

cudaError_t scale(Size rows, Size cols, float factor, Floats x, cudaStream_t stream) {
  return for_each(rows, cols, stream,
                  [=] __device__(Size i, Size j) { x.row(i)[j] = factor == 0 ? 0.0f : factor * x.row(i)[j]; });
}

cudaError_t scale_columns(Size rows, Size cols, Floats x, const float* factors, bool inverse, cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) {
    const float f = factors[j], value = x.row(i)[j];
    x.row(i)[j] = !inverse ? value * f : f == 0 ? 0.0f : value / f;
  });
}

cudaError_t scale_rows(Size rows, Size cols, Floats x, const float* factors, cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) { x.row(i)[j] *= factors[i]; });
}

cudaError_t scale_by_mask(Size rows, Size cols, Floats x, ConstBytes mask, float kept, float pruned,
                          cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) {
    const float factor = mask.row(i)[j] ? kept : pruned;
    x.row(i)[j] = factor == 0 ? 0.0f : factor * x.row(i)[j];  // 0 * x would leave -0 and keep NaN
  });
}

cudaError_t nonzeros(Size rows, Size cols, ConstFloats x, Bytes mask, cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) { mask.row(i)[j] = x.row(i)[j] != 0; });
}

cudaError_t signs(Size rows, Size cols, ConstFloats x, Bytes mask, cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) { mask.row(i)[j] = x.row(i)[j] >= 0; });
}

cudaError_t normalise_gram(Size size, ConstFloats gram, const float* inverse_scale, const float* diagonal, Floats out,
                           cudaStream_t stream) {
  return for_each(size, size, stream, [=] __device__(Size i, Size j) {
    const double both = static_cast<double>(inverse_scale[i]) * inverse_scale[j];
    out.row(i)[j] = i == j ? diagonal[j] : static_cast<float>(both * gram.row(i)[j]);
  });
}

cudaError_t add_to_diagonal(Size size, float value, Floats x, cudaStream_t stream) {
  return for_each(1, size, stream, [=] __device__(Size, Size j) { x.row(j)[j] += value; });
}

cudaError_t gather(Size rows, ConstFloats x, float* out, cudaStream_t stream) {
  return for_each(1, rows, stream, [=] __device__(Size, Size j) { out[j] = *x.row(j); });
}

namespace {

// splitmix64: a counter-based stream, so that a value depends on seed and position alone.
__host__ __device__ std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

__global__ void probe() {}

__device__ double uniform(std::uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53; }

}  // namespace

cudaError_t randn(Size rows, Size cols, std::uint64_t seed, Floats out, cudaStream_t stream) {
  constexpr double pi = 3.141592653589793238462643383279502884;
  const std::uint64_t key = mix(seed);
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) {
    const std::uint64_t counter = 2 * static_cast<std::uint64_t>(i * cols + j);
    const double radius = sqrt(-2 * log(uniform(mix(key ^ mix(counter)))));
    const double angle = 2 * pi * uniform(mix(key ^ mix(counter + 1)));
    out.row(i)[j] = static_cast<float>(radius * cos(angle));
  });
}

cudaError_t has_code_for_device() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, probe);
}

}  // namespace sparlow::cuda::kernels
