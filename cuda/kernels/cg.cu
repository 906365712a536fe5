// Conjugate gradients, one independent system a row, one block a row, V entries at a time.
#include "launch.cuh"

namespace sparlow::cuda::kernels {
namespace {

constexpr int kThreads = 256;

// The V entries from j on of the residual of a row: `full` on the support, else 0.
template <int V>
__device__ Pack<V> supported(const ConjugateGradients& s, Size i, Size j) {
  Pack<V> value = load<V>(s.full.row(i) + j);
  const auto kept = load<V>(s.mask.row(i) + j);
  for (int k = 0; k < V; ++k) value.v[k] = kept.v[k] ? value.v[k] : 0.0f;
  return value;
}

template <int V>
__global__ void __launch_bounds__(kThreads) start(ConjugateGradients s) {
  __shared__ float shared[kThreads / 32];
  const Size i = blockIdx.x;
  float norm = 0;
  for (Size j = threadIdx.x * V; j < s.cols; j += kThreads * V) {
    const Pack<V> value = supported<V>(s, i, j);
    store<V>(s.residual.row(i) + j, value);
    store<V>(s.direction.row(i) + j, value);
    for (float x : value.v) norm += x * x;
  }
  norm = block_sum(norm, shared);
  if (threadIdx.x == 0) *s.norms.row(i) = norm;
}

template <int V>
__global__ void __launch_bounds__(kThreads) move(ConjugateGradients s) {
  __shared__ float shared[kThreads / 32];
  const Size i = blockIdx.x;
  float curvature = 0, slope = 0;
  for (Size j = threadIdx.x * V; j < s.cols; j += kThreads * V) {
    const Pack<V> direction = load<V>(s.direction.row(i) + j), product = load<V>(s.product.row(i) + j),
                  residual = load<V>(s.residual.row(i) + j);
    for (int k = 0; k < V; ++k) {
      curvature += direction.v[k] * product.v[k];
      slope += direction.v[k] * residual.v[k];
    }
  }
  curvature = block_sum(curvature, shared);
  slope = block_sum(slope, shared);
  if (!(curvature > 0)) return;  // this row has converged
  const float alpha = slope / curvature;
  for (Size j = threadIdx.x * V; j < s.cols; j += kThreads * V) {
    const Pack<V> direction = load<V>(s.direction.row(i) + j), product = load<V>(s.product.row(i) + j);
    Pack<V> gap = load<V>(s.gap.row(i) + j), gradient = load<V>(s.gradient.row(i) + j);
    for (int k = 0; k < V; ++k) {
      gap.v[k] -= alpha * direction.v[k];
      gradient.v[k] -= alpha * product.v[k];
    }
    store<V>(s.gap.row(i) + j, gap);
    store<V>(s.gradient.row(i) + j, gradient);
  }
}

template <int V>
__global__ void __launch_bounds__(kThreads) turn(ConjugateGradients s) {
  __shared__ float shared[kThreads / 32];
  const Size i = blockIdx.x;
  float mixed = 0, next = 0;
  for (Size j = threadIdx.x * V; j < s.cols; j += kThreads * V) {
    const Pack<V> value = supported<V>(s, i, j), residual = load<V>(s.residual.row(i) + j);
    for (int k = 0; k < V; ++k) {
      mixed += value.v[k] * residual.v[k];
      next += value.v[k] * value.v[k];
    }
    store<V>(s.residual.row(i) + j, value);
  }
  mixed = block_sum(mixed, shared);
  next = block_sum(next, shared);
  const float old = *s.norms.row(i);
  __syncthreads();  // everyone has read the old norm
  const float beta = old > 0 ? fmaxf(0.0f, (next - mixed) / old) : 0.0f;
  for (Size j = threadIdx.x * V; j < s.cols; j += kThreads * V) {
    const Pack<V> residual = load<V>(s.residual.row(i) + j);
    Pack<V> direction = load<V>(s.direction.row(i) + j);
    for (int k = 0; k < V; ++k) direction.v[k] = residual.v[k] + beta * direction.v[k];
    store<V>(s.direction.row(i) + j, direction);
  }
  if (threadIdx.x == 0) *s.norms.row(i) = next;
}

bool packs(const ConjugateGradients& s) {
  return kernels::packs(s.cols, s.gap) && kernels::packs(s.cols, s.gradient) && kernels::packs(s.cols, s.full) &&
         kernels::packs(s.cols, s.residual) && kernels::packs(s.cols, s.direction) &&
         kernels::packs(s.cols, s.product) && kernels::packs(s.cols, s.mask);
}

using Kernel = void(ConjugateGradients);

cudaError_t launch(Kernel* wide, Kernel* narrow, const ConjugateGradients& state, cudaStream_t stream) {
  if (state.rows == 0) return cudaSuccess;
  (packs(state) ? wide : narrow)<<<static_cast<unsigned>(state.rows), kThreads, 0, stream>>>(state);
  return cudaGetLastError();
}

}  // namespace

cudaError_t cg_start(const ConjugateGradients& state, cudaStream_t stream) {
  return launch(start<4>, start<1>, state, stream);
}
cudaError_t cg_move(const ConjugateGradients& state, cudaStream_t stream) {
  return launch(move<4>, move<1>, state, stream);
}
cudaError_t cg_turn(const ConjugateGradients& state, cudaStream_t stream) {
  return launch(turn<4>, turn<1>, state, stream);
}

}  // namespace sparlow::cuda::kernels
