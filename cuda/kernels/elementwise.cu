#include "launch.cuh"

namespace sparlow::cuda::kernels {

cudaError_t axpby(Size rows, Size cols, float alpha, ConstFloats x, float beta, Floats y, cudaStream_t stream) {
  return for_packs(rows, cols, packs(cols, x) && packs(cols, y), stream, [=] __device__(Size i, Size j, auto width) {
    constexpr int V = decltype(width)::value;
    Pack<V> sum = load<V>(x.row(i) + j), old{};
    if (beta != 0) old = load<V>(y.row(i) + j);
    for (int k = 0; k < V; ++k) {
      const float scaled = alpha * sum.v[k];
      sum.v[k] = beta == 0 ? scaled : scaled + beta * old.v[k];
    }
    store<V>(y.row(i) + j, sum);
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
  const bool wide = packs(cols, x) && packs(cols, ConstFloats{factors, 0});
  return for_packs(rows, cols, wide, stream, [=] __device__(Size i, Size j, auto width) {
    constexpr int V = decltype(width)::value;
    const Pack<V> f = load<V>(factors + j);
    Pack<V> value = load<V>(x.row(i) + j);
    for (int k = 0; k < V; ++k) value.v[k] = !inverse ? value.v[k] * f.v[k] : f.v[k] == 0 ? 0.0f : value.v[k] / f.v[k];
    store<V>(x.row(i) + j, value);
  });
}

cudaError_t scale_rows(Size rows, Size cols, Floats x, const float* factors, cudaStream_t stream) {
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) { x.row(i)[j] *= factors[i]; });
}

cudaError_t scale_by_mask(Size rows, Size cols, Floats x, ConstBytes mask, float kept, float pruned,
                          cudaStream_t stream) {
  return for_packs(rows, cols, packs(cols, x) && packs(cols, mask), stream, [=] __device__(Size i, Size j, auto width) {
    constexpr int V = decltype(width)::value;
    const auto stays = load<V>(mask.row(i) + j);
    Pack<V> value = load<V>(x.row(i) + j);
    for (int k = 0; k < V; ++k) {
      const float factor = stays.v[k] ? kept : pruned;
      value.v[k] = factor == 0 ? 0.0f : factor * value.v[k];  // 0 * x would leave -0 and keep NaN
    }
    store<V>(x.row(i) + j, value);
  });
}

cudaError_t nonzeros(Size rows, Size cols, ConstFloats x, Bytes mask, cudaStream_t stream) {
  return for_packs(rows, cols, packs(cols, x) && packs(cols, mask), stream, [=] __device__(Size i, Size j, auto width) {
    constexpr int V = decltype(width)::value;
    const Pack<V> value = load<V>(x.row(i) + j);
    Pack<V, std::uint8_t> found;
    for (int k = 0; k < V; ++k) found.v[k] = value.v[k] != 0;
    store<V>(mask.row(i) + j, found);
  });
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
