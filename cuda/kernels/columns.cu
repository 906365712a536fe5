// Optimal brain surgeon over a block of columns: one warp a row, the row in registers, lane l holding the columns
// l, l + 32, ... The factor is read through the first-level cache, which all warps of a multiprocessor share.
#include "launch.cuh"
#include "rank.cuh"

namespace sparlow::cuda::kernels {
namespace {

constexpr int kWarps = 8;
constexpr unsigned kAll = 0xffffffffu;

// Bit s of the result: column 32 s + lane, one of the group that begins at `begin`, is among its n largest.
template <int kSlots>
__device__ unsigned choose(const float* w, const float* inverse, int begin, int n, int m, unsigned* scores) {
  const int lane = threadIdx.x % 32;
  __syncwarp();  // the last group's scores have been read
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int place = 32 * s + lane - begin;
    if (place >= 0 && place < m) scores[place] = rank_value(w[s] * inverse[s]);
  }
  __syncwarp();
  unsigned kept = 0;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int place = 32 * s + lane - begin;
    if (place < 0 || place >= m) continue;
    const unsigned own = scores[place];
    int better = 0;
    for (int k = 0; k < m; ++k) better += scores[k] > own || (k < place && scores[k] == own);
    kept |= unsigned(better < n) << s;
  }
  return kept;
}

template <int kSlots>
__global__ void __launch_bounds__(32 * kWarps) prune(ColumnBlock block) {
  __shared__ unsigned scores[kWarps][kWidestBlock];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, cols = static_cast<int>(block.cols);
  const Size row = Size(blockIdx.x) * kWarps + warp;
  if (row >= block.rows) return;
  float w[kSlots], error[kSlots], inverse[kSlots];
  unsigned kept = 0;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int j = 32 * s + lane;
    const bool inside = j < cols;
    w[s] = inside ? block.w.row(row)[j] : 0.0f;
    inverse[s] = inside ? 1.0f / block.diagonal[j] : 0.0f;
    error[s] = 0;
    if (block.m == 0 && inside) kept |= unsigned(block.mask.row(row)[j] != 0) << s;
  }
  int next_group = 0;
#pragma unroll
  for (int s = 0; s < kSlots; ++s)  // unrolled: registers have no run-time index
    for (int source = 0; source < 32; ++source) {
      const int i = 32 * s + source;
      if (i >= cols) break;
      if (block.m > 0 && i == next_group) {
        kept |= choose<kSlots>(w, inverse, i, block.n, block.m, scores[warp]);
        next_group += block.m;
      }
      const bool stays = (kept >> s) & 1u;
      const float own = stays ? 0.0f : w[s] * inverse[s];
      const float e = __shfl_sync(kAll, own, source);
      if (lane == source) error[s] = e;
      if (e == 0) continue;  // the same for every lane
      const float* factor = block.factor.row(i);
#pragma unroll
      for (int t = s; t < kSlots; ++t) {
        const int j = 32 * t + lane;
        if (j > i && j < cols) w[t] -= e * __ldg(factor + j);
      }
    }
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int j = 32 * s + lane;
    if (j >= cols) continue;
    const bool stays = (kept >> s) & 1u;
    block.w.row(row)[j] = stays ? w[s] : 0.0f;
    block.error.row(row)[j] = error[s];
    if (block.m > 0) block.mask.row(row)[j] = stays;
  }
}

}  // namespace

cudaError_t prune_columns(const ColumnBlock& block, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>((block.rows + kWarps - 1) / kWarps);
  if (block.cols <= 128) prune<4><<<blocks, 32 * kWarps, 0, stream>>>(block);
  else prune<8><<<blocks, 32 * kWarps, 0, stream>>>(block);
  return cudaGetLastError();
}

}  // namespace sparlow::cuda::kernels
