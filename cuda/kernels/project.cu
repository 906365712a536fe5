#include "launch.cuh"
#include "rank.cuh"

namespace sparlow::cuda::kernels {
namespace {

bool packs(ConstFloats score, Bytes mask) {
  return aligned16(score.data, score.stride * 4) && reinterpret_cast<std::uintptr_t>(mask.data) % 4 == 0 &&
         mask.stride % 4 == 0;
}

}  // namespace

cudaError_t project_groups(Size rows, Size cols, int n, int m, ConstFloats score, Bytes mask, cudaStream_t stream) {
  if (n == 2 && m == 4 && packs(score, mask))
    return for_each(rows, cols / 4, stream, [=] __device__(Size i, Size j) {
      const float4 group = *reinterpret_cast<const float4*>(score.row(i) + 4 * j);
      *reinterpret_cast<uchar4*>(mask.row(i) + 4 * j) = two_of_four(group);
    });
  return for_each(rows, cols, stream, [=] __device__(Size i, Size j) {
    const float* group = score.row(i) + j / m * m;
    const int own = static_cast<int>(j % m);
    const unsigned value = rank_value(group[own]);
    int better = 0;
    for (int k = 0; k < m; ++k) {
      const unsigned other = rank_value(group[k]);
      better += other > value || (k < own && other == value);
    }
    mask.row(i)[j] = better < n;
  });
}

}  // namespace sparlow::cuda::kernels
