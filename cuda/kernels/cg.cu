// Conjugate gradients, one independent system a row, one block a row.
#include "launch.cuh"

namespace sparlow::cuda::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) start(ConjugateGradients s) {
  __shared__ float shared[kThreads / 32];
  const Size i = blockIdx.x;
  float norm = 0;
  for (Size j = threadIdx.x; j < s.cols; j += kThreads) {
    const float value = s.mask.row(i)[j] ? s.full.row(i)[j] : 0.0f;
    s.residual.row(i)[j] = value;
    s.direction.row(i)[j] = value;
    norm += value * value;
  }
  norm = block_sum(norm, shared);
  if (threadIdx.x == 0) *s.norms.row(i) = norm;
}

__global__ void __launch_bounds__(kThreads) move(ConjugateGradients s) {
  __shared__ float shared[kThreads / 32];
  const Size i = blockIdx.x;
  float curvature = 0, slope = 0;
  for (Size j = threadIdx.x; j < s.cols; j += kThreads) {
    const float direction = s.direction.row(i)[j];
    curvature += direction * s.product.row(i)[j];
    slope += direction * s.residual.row(i)[j];
  }
  curvature = block_sum(curvature, shared);
  slope = block_sum(slope, shared);
  if (!(curvature > 0)) return;  // this row has converged
  const float alpha = slope / curvature;
  for (Size j = threadIdx.x; j < s.cols; j += kThreads) {
    s.gap.row(i)[j] -= alpha * s.direction.row(i)[j];
    s.gradient.row(i)[j] -= alpha * s.product.row(i)[j];
  }
}

__global__ void __launch_bounds__(kThreads) turn(ConjugateGradients s) {
  __shared__ float shared[kThreads / 32];
  const Size i = blockIdx.x;
  float mixed = 0, next = 0;
  for (Size j = threadIdx.x; j < s.cols; j += kThreads) {
    const float value = s.mask.row(i)[j] ? s.full.row(i)[j] : 0.0f;
    mixed += value * s.residual.row(i)[j];
    next += value * value;
    s.residual.row(i)[j] = value;
  }
  mixed = block_sum(mixed, shared);
  next = block_sum(next, shared);
  const float old = *s.norms.row(i);
  __syncthreads();  // everyone has read the old norm
  const float beta = old > 0 ? fmaxf(0.0f, (next - mixed) / old) : 0.0f;
  for (Size j = threadIdx.x; j < s.cols; j += kThreads)
    s.direction.row(i)[j] = s.residual.row(i)[j] + beta * s.direction.row(i)[j];
  if (threadIdx.x == 0) *s.norms.row(i) = next;
}

template <typename Kernel>
cudaError_t launch(Kernel kernel, const ConjugateGradients& state, cudaStream_t stream) {
  if (state.rows > 0) kernel<<<static_cast<unsigned>(state.rows), kThreads, 0, stream>>>(state);
  return cudaGetLastError();
}

}  // namespace

cudaError_t cg_start(const ConjugateGradients& state, cudaStream_t stream) { return launch(start, state, stream); }
cudaError_t cg_move(const ConjugateGradients& state, cudaStream_t stream) { return launch(move, state, stream); }
cudaError_t cg_turn(const ConjugateGradients& state, cudaStream_t stream) { return launch(turn, state, stream); }

}  // namespace sparlow::cuda::kernels
