// The elementwise part of an ADMM iteration. Letters as in AdmmStep: a = (t on the mask, -t off it), x = a - s.
#include "launch.cuh"
#include "rank.cuh"

namespace sparlow::cuda::kernels {
namespace {

__device__ float reflected(float t, bool kept) { return kept ? t : -t; }

// t and velocity move on; returns t.
__device__ float advanced(const Admm& step, float x, bool kept, float t, float& velocity) {
  const float next = (kept ? t : 0.0f) - x;
  if (step.velocity.data == nullptr) return next;
  velocity = step.relaxation * (next - t) + step.momentum * velocity;
  return t + velocity;
}

__global__ void __launch_bounds__(256) fused(Admm step) {
  const Size packs = step.cols / 4;
  for (Size i = blockIdx.y; i < step.rows; i += gridDim.y) {
    const float unscale = step.sign * (step.unscale == nullptr ? 1.0f : step.unscale[i]);
    for (Size p = blockIdx.x * Size(blockDim.x) + threadIdx.x; p < packs; p += Size(gridDim.x) * blockDim.x) {
      const Size j = 4 * p;
      const float4 w4 = *reinterpret_cast<const float4*>(step.w.row(i) + j);
      const float4 x4 = *reinterpret_cast<const float4*>(step.x.row(i) + j);
      const float4 t4 = *reinterpret_cast<const float4*>(step.t.row(i) + j);
      const uchar4 m4 = *reinterpret_cast<const uchar4*>(step.mask.row(i) + j);
      float4 v4 = make_float4(0, 0, 0, 0);
      if (step.velocity.data != nullptr) v4 = *reinterpret_cast<const float4*>(step.velocity.row(i) + j);
      const float x[4] = {unscale * x4.x, unscale * x4.y, unscale * x4.z, unscale * x4.w};
      const float old[4] = {t4.x, t4.y, t4.z, t4.w};
      const bool kept[4] = {m4.x != 0, m4.y != 0, m4.z != 0, m4.w != 0};
      float v[4] = {v4.x, v4.y, v4.z, v4.w}, t[4];
      for (int k = 0; k < 4; ++k) t[k] = advanced(step, x[k], kept[k], old[k], v[k]);
      if (step.sparse.data != nullptr)
        *reinterpret_cast<float4*>(step.sparse.row(i) + j) =
            make_float4(reflected(old[0], kept[0]) - x[0], reflected(old[1], kept[1]) - x[1],
                        reflected(old[2], kept[2]) - x[2], reflected(old[3], kept[3]) - x[3]);
      const uchar4 mask = two_of_four(make_float4(t[0], t[1], t[2], t[3]));
      const bool stays[4] = {mask.x != 0, mask.y != 0, mask.z != 0, mask.w != 0};
      for (int k = 0; k < 4; ++k) {
        t[k] *= stays[k] ? 1.0f : step.dual_scale;
        v[k] *= stays[k] ? 1.0f : step.dual_scale;
      }
      *reinterpret_cast<uchar4*>(step.mask.row(i) + j) = mask;
      *reinterpret_cast<float4*>(step.t.row(i) + j) = make_float4(t[0], t[1], t[2], t[3]);
      if (step.velocity.data != nullptr)
        *reinterpret_cast<float4*>(step.velocity.row(i) + j) = make_float4(v[0], v[1], v[2], v[3]);
      *reinterpret_cast<float4*>(step.residual.row(i) + j) =
          make_float4(w4.x - reflected(t[0], stays[0]), w4.y - reflected(t[1], stays[1]),
                      w4.z - reflected(t[2], stays[2]), w4.w - reflected(t[3], stays[3]));
    }
  }
}

template <typename T>
bool packs(Rows<T> x) {
  return x.data == nullptr || aligned16(x.data, x.stride * Size(sizeof(T)));
}

}  // namespace

bool fits_two_of_four(const Admm& step) {
  const bool mask = reinterpret_cast<std::uintptr_t>(step.mask.data) % 4 == 0 && step.mask.stride % 4 == 0;
  return mask && step.cols % 4 == 0 && packs(step.w) && packs(step.x) && packs(step.t) && packs(step.residual) &&
         packs(step.velocity) && packs(step.sparse);
}

cudaError_t advance_two_of_four(const Admm& step, cudaStream_t stream) {
  const Size width = step.cols / 4;
  const unsigned threads = static_cast<unsigned>(std::min<Size>(256, (width + 31) / 32 * 32));
  const dim3 grid(static_cast<unsigned>((width + threads - 1) / threads),
                  static_cast<unsigned>(std::min<Size>(step.rows, 65535)));
  fused<<<grid, threads, 0, stream>>>(step);
  return cudaGetLastError();
}

cudaError_t advance(const Admm& step, cudaStream_t stream) {
  return for_each(step.rows, step.cols, stream, [step] __device__(Size i, Size j) {
    const float x = step.sign * step.x.row(i)[j] * (step.unscale == nullptr ? 1.0f : step.unscale[i]),
                t = step.t.row(i)[j];
    const bool kept = step.mask.row(i)[j] != 0;
    float v = step.velocity.data == nullptr ? 0.0f : step.velocity.row(i)[j];
    if (step.sparse.data != nullptr) step.sparse.row(i)[j] = reflected(t, kept) - x;
    step.t.row(i)[j] = advanced(step, x, kept, t, v);
    if (step.velocity.data != nullptr) step.velocity.row(i)[j] = v;
  });
}

namespace {

// Four entries at a time, no velocity.
cudaError_t reflect_packs(const Admm& step, cudaStream_t stream) {
  return for_each(step.rows, step.cols / 4, stream, [step] __device__(Size i, Size p) {
    const float4 w = *reinterpret_cast<const float4*>(step.w.row(i) + 4 * p);
    const float4 t = *reinterpret_cast<const float4*>(step.t.row(i) + 4 * p);
    const uchar4 kept = *reinterpret_cast<const uchar4*>(step.mask.row(i) + 4 * p);
    const float s = step.dual_scale;
    const float4 next =
        make_float4(kept.x ? t.x : s * t.x, kept.y ? t.y : s * t.y, kept.z ? t.z : s * t.z, kept.w ? t.w : s * t.w);
    *reinterpret_cast<float4*>(step.t.row(i) + 4 * p) = next;
    *reinterpret_cast<float4*>(step.residual.row(i) + 4 * p) =
        make_float4(w.x - reflected(next.x, kept.x), w.y - reflected(next.y, kept.y), w.z - reflected(next.z, kept.z),
                    w.w - reflected(next.w, kept.w));
  });
}

}  // namespace

cudaError_t reflect(const Admm& step, cudaStream_t stream) {
  if (step.velocity.data == nullptr && fits_two_of_four(step)) return reflect_packs(step, stream);
  return for_each(step.rows, step.cols, stream, [step] __device__(Size i, Size j) {
    const bool kept = step.mask.row(i)[j] != 0;
    float t = step.t.row(i)[j];
    if (!kept && step.dual_scale != 1) {
      t *= step.dual_scale;
      step.t.row(i)[j] = t;
      if (step.velocity.data != nullptr) step.velocity.row(i)[j] *= step.dual_scale;
    }
    step.residual.row(i)[j] = step.w.row(i)[j] - reflected(t, kept);
  });
}

cudaError_t signed_gather(const Signed& turn, cudaStream_t stream) {
  return for_each(turn.rows, turn.cols, stream, [turn] __device__(Size i, Size j) {
    const float plain = turn.plain.row(i)[j];
    const float sum = turn.t.row(i)[j] + (turn.signs.row(i)[j] ? plain : -plain);
    turn.t.row(i)[j] = sum;
    turn.signs.row(i)[j] = sum >= 0;
    turn.magnitude.row(i)[j] = turn.mask.row(i)[j] ? plain : fabsf(sum);
  });
}

cudaError_t signed_spread(const Signed& turn, cudaStream_t stream) {
  return for_each(turn.rows, turn.cols, stream, [turn] __device__(Size i, Size j) {
    const float plain = turn.plain.row(i)[j], c = turn.signs.row(i)[j] ? plain : -plain;
    turn.t.row(i)[j] -= c;
    turn.w.row(i)[j] = turn.target.row(i)[j] - c;
  });
}

}  // namespace sparlow::cuda::kernels
