// Sums over a matrix. Floating-point sums take a fixed order; integer ones may use atomics.
#include "launch.cuh"

namespace sparlow::cuda::kernels {
namespace {

constexpr int kThreads = 256;

__device__ double product(ConstFloats x, Size, Size i, ConstFloats y, Size j) {
  return static_cast<double>(x.row(i)[j]) * y.row(i)[j];
}
__device__ double product(const double* x, Size cols, Size i, ConstFloats y, Size j) {
  return x[i * cols + j] * y.row(i)[j];
}

template <typename X>
__global__ void __launch_bounds__(kThreads) partial_dots(Size rows, Size cols, X x, ConstFloats y, double* partials) {
  __shared__ double shared[kThreads / 32];
  double sum = 0;
  for (Size i = blockIdx.x; i < rows; i += gridDim.x)
    for (Size j = threadIdx.x; j < cols; j += kThreads) sum += product(x, cols, i, y, j);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) add_partials(Size count, const double* partials, double* total) {
  __shared__ double shared[kThreads / 32];
  double sum = 0;
  for (Size i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *total += sum;
}

template <typename X>
cudaError_t dot_any(Size rows, Size cols, X x, ConstFloats y, double* partials, double* sum, cudaStream_t stream) {
  const Size blocks = std::min(rows, kPartials);
  partial_dots<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(rows, cols, x, y, partials);
  add_partials<<<1, kThreads, 0, stream>>>(blocks, partials, sum);
  return cudaGetLastError();
}

// Sixteen bytes at a time where `wide`.
__global__ void __launch_bounds__(kThreads)
    changed(Size rows, Size cols, bool wide, ConstBytes a, ConstBytes b, unsigned long long* count) {
  unsigned differing = 0;
  for (Size i = blockIdx.x; i < rows; i += gridDim.x) {
    if (wide)
      for (Size j = 16 * threadIdx.x; j < cols; j += 16 * kThreads) {
        const auto x = load<4>(reinterpret_cast<const unsigned*>(a.row(i) + j)),
                   y = load<4>(reinterpret_cast<const unsigned*>(b.row(i) + j));
        for (int k = 0; k < 4; ++k) differing += __popc(__vcmpne4(x.v[k], y.v[k])) / 8;
      }
    else
      for (Size j = threadIdx.x; j < cols; j += kThreads) differing += a.row(i)[j] != b.row(i)[j];
  }
  differing = __reduce_add_sync(0xffffffffu, differing);
  if (threadIdx.x % 32 == 0 && differing > 0) atomicAdd(count, static_cast<unsigned long long>(differing));
}

}  // namespace

cudaError_t any_nonfinite(Size rows, Size cols, ConstFloats x, unsigned* flag, cudaStream_t stream) {
  return for_packs(rows, cols, packs(cols, x), stream, [=] __device__(Size i, Size j, auto width) {
    constexpr int V = decltype(width)::value;
    const Pack<V> value = load<V>(x.row(i) + j);
    for (int k = 0; k < V; ++k)
      if ((__float_as_uint(value.v[k]) & 0x7f800000u) == 0x7f800000u) atomicOr(flag, 1u);
  });
}

cudaError_t count_changed(Size rows, Size cols, ConstBytes a, ConstBytes b, unsigned long long* count,
                          cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(std::min<Size>(rows, 4096));
  const bool wide = cols % 16 == 0 && aligned16(a.data, a.stride) && aligned16(b.data, b.stride);
  changed<<<blocks, kThreads, 0, stream>>>(rows, cols, wide, a, b, count);
  return cudaGetLastError();
}

cudaError_t dot(Size rows, Size cols, ConstFloats x, ConstFloats y, double* partials, double* sum,
                cudaStream_t stream) {
  return dot_any(rows, cols, x, y, partials, sum, stream);
}

cudaError_t dot_double(Size rows, Size cols, const double* x, ConstFloats y, double* partials, double* sum,
                       cudaStream_t stream) {
  return dot_any(rows, cols, x, y, partials, sum, stream);
}

}  // namespace sparlow::cuda::kernels
