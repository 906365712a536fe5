// Square matrices tile by tile: a tile above the diagonal and its mirror belong to one block.
#include "launch.cuh"

namespace sparlow::cuda::kernels {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;

// keep_upper: the upper triangle stays bit for bit (factor 1, offset 0).
template <bool kKeepUpper>
__global__ void mirror(Size size, float offset, float factor, Floats x) {
  __shared__ float tile[kTile][kTile + 1];
  if (blockIdx.x < blockIdx.y) return;
  const Size row0 = Size(blockIdx.y) * kTile, col0 = Size(blockIdx.x) * kTile;
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
    const Size i = row0 + r, j = col0 + threadIdx.x;
    if (i < size && j < size) tile[r][threadIdx.x] = x.row(i)[j];
  }
  __syncthreads();
  const bool diagonal = blockIdx.x == blockIdx.y;
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
    const int c = threadIdx.x;
    if (!kKeepUpper && row0 + r < size && col0 + c < size && (!diagonal || c >= r))
      x.row(row0 + r)[col0 + c] = factor * tile[r][c] + (diagonal && r == c ? offset : 0.0f);
    if (col0 + r < size && row0 + c < size && (!diagonal || c < r))
      x.row(col0 + r)[row0 + c] = kKeepUpper ? tile[c][r] : factor * tile[c][r];
  }
}

__global__ void mirror_other(Size size, ConstFloats x, Floats out) {
  __shared__ float tile[kTile][kTile + 1];
  const Size row0 = Size(blockIdx.y) * kTile, col0 = Size(blockIdx.x) * kTile;
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
    const Size i = row0 + r, j = col0 + threadIdx.x;
    if (i < size && j < size) tile[r][threadIdx.x] = x.row(i)[j];
  }
  __syncthreads();
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
    const Size i = row0 + threadIdx.x, j = col0 + r;
    if (i < size && j < size) out.row(size - 1 - j)[size - 1 - i] = tile[threadIdx.x][r];
  }
}

template <bool kKeepUpper>
cudaError_t launch(Size size, float offset, float factor, Floats x, cudaStream_t stream) {
  if (size == 0) return cudaSuccess;
  const unsigned tiles = static_cast<unsigned>((size + kTile - 1) / kTile);
  mirror<kKeepUpper><<<dim3(tiles, tiles), dim3(kTile, kTileRows), 0, stream>>>(size, offset, factor, x);
  return cudaGetLastError();
}

}  // namespace

cudaError_t symmetrise(Size size, Floats x, cudaStream_t stream) { return launch<true>(size, 0, 1, x, stream); }

cudaError_t antitranspose(Size size, ConstFloats x, Floats out, cudaStream_t stream) {
  if (size == 0) return cudaSuccess;
  const unsigned tiles = static_cast<unsigned>((size + kTile - 1) / kTile);
  mirror_other<<<dim3(tiles, tiles), dim3(kTile, kTileRows), 0, stream>>>(size, x, out);
  return cudaGetLastError();
}

cudaError_t mirror_affine(Size size, float offset, float factor, Floats x, cudaStream_t stream) {
  return launch<false>(size, offset, factor, x, stream);
}

}  // namespace sparlow::cuda::kernels
