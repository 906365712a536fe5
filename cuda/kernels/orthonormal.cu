// Orthonormal basis of a tall matrix by Cholesky QR in f64, in one cooperative launch and without a host wait:
// gram = y^T y scaled to unit diagonal, gram = l d l^T, y becomes y l^-T d^-1/2. Columns that depend on earlier ones
// are replaced by random ones, and a second round follows when a pivot was small; the result is then orthonormal to
// f32 rounding whatever the input.
#include <cooperative_groups.h>

#include "launch.cuh"

namespace sparlow::cuda::kernels {
namespace {

namespace groups = cooperative_groups;

constexpr int kSide = 16;  // threads form a kSide x kSide square over the Gram matrix
constexpr int kThreads = kSide * kSide;
constexpr int kChunk = 32;            // rows of y in shared memory
constexpr double kDependent = 1e-12;  // squared sine below which a column counts as dependent: f32 rounding
constexpr double kAccurate = 1e-8;    // squared sine above which one round is enough

// kTile^2 entries of the Gram matrix belong to each thread: rows ty + kSide a, columns tx + kSide b.
template <int kTile>
struct Shared {
  static constexpr int kSize = kSide * kTile;
  double factor[kSize][kSize];  // y becomes y factor
  double chunk[kChunk][kSize];
  double pivot_row[2][kSize];
  double inverse_norm[kSize];
  double pivot[kSize];
  bool dependent[kSize];
};

template <int kTile>
__device__ void load_chunk(Shared<kTile>& s, Size begin, Size end, Size cols, Floats y) {
  for (int e = threadIdx.x; e < kChunk * s.kSize; e += kThreads) {
    const int r = e / s.kSize, c = e % s.kSize;
    s.chunk[r][c] = begin + r < end && c < cols ? y.row(begin + r)[c] : 0.0;
  }
}

template <int kTile>
__device__ void partial_gram(Shared<kTile>& s, Size begin, Size end, Size cols, Floats y, double* out) {
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  double sum[kTile][kTile] = {};
  for (Size row = begin; row < end; row += kChunk) {
    __syncthreads();
    load_chunk(s, row, end, cols, y);
    __syncthreads();
    for (int r = 0; r < kChunk; ++r)
#pragma unroll
      for (int a = 0; a < kTile; ++a)
#pragma unroll
        for (int b = 0; b < kTile; ++b) sum[a][b] += s.chunk[r][ty + kSide * a] * s.chunk[r][tx + kSide * b];
  }
#pragma unroll
  for (int a = 0; a < kTile; ++a)
#pragma unroll
    for (int b = 0; b < kTile; ++b) out[(ty + kSide * a) * s.kSize + tx + kSide * b] = sum[a][b];
}

// Gauss-Jordan elimination of the scaled Gram matrix in registers: above the diagonal it leaves d l^T, below it l^-1.
// Returns whether every pivot was large enough for one round.
template <int kTile>
__device__ bool factorise(Shared<kTile>& s, const double* gram, Size cols) {
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  for (int i = threadIdx.x; i < s.kSize; i += kThreads) {
    const double squared = i < cols ? gram[i * s.kSize + i] : 1;
    s.inverse_norm[i] = squared == 0 ? 0 : 1 / sqrt(squared);
  }
  __syncthreads();
  double c[kTile][kTile];
#pragma unroll
  for (int a = 0; a < kTile; ++a)
#pragma unroll
    for (int b = 0; b < kTile; ++b) {
      const int i = ty + kSide * a, j = tx + kSide * b;
      c[a][b] = i < cols && j < cols ? gram[i * s.kSize + j] * s.inverse_norm[i] * s.inverse_norm[j] : i == j;
    }
  bool accurate = true;
#pragma unroll
  for (int a0 = 0; a0 < kTile; ++a0)
    for (int k0 = 0; k0 < kSide; ++k0) {
      const int k = kSide * a0 + k0;
      double* row = s.pivot_row[k % 2];
      if (ty == k0)
#pragma unroll
        for (int b = 0; b < kTile; ++b) row[tx + kSide * b] = c[a0][b];
      __syncthreads();
      const double d = row[k];
      const bool dependent = d <= kDependent;  // false for NaN, which spreads
      accurate = accurate && !(d <= kAccurate);
      if (threadIdx.x == 0) {
        s.pivot[k] = d;
        s.dependent[k] = dependent;
      }
      const double inverse = dependent ? 0 : 1 / d;
#pragma unroll
      for (int a = 0; a < kTile; ++a) {
        const int i = ty + kSide * a;
        if (i <= k) continue;
        const double m = row[i] * inverse;
#pragma unroll
        for (int b = 0; b < kTile; ++b) {
          const int j = tx + kSide * b;
          c[a][b] = j == k ? -m : c[a][b] - m * row[j];
        }
      }
    }
  __syncthreads();
#pragma unroll
  for (int a = 0; a < kTile; ++a)
#pragma unroll
    for (int b = 0; b < kTile; ++b) {
      const int i = ty + kSide * a, j = tx + kSide * b;  // l^-1_ij goes to factor_ji
      const double scale = s.inverse_norm[j] / sqrt(s.pivot[i]);
      s.factor[j][i] = j < i ? c[a][b] * scale : j == i ? scale : 0;
    }
  __syncthreads();
  return accurate;
}

// splitmix64 of the position: a fixed pseudo-random column in (-1, 1).
__device__ float noise(Size row, Size col) {
  std::uint64_t x = (static_cast<std::uint64_t>(row) << 20) + static_cast<std::uint64_t>(col) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<float>(static_cast<double>((x ^ (x >> 31)) >> 11) * 0x1p-52 - 1);
}

template <int kTile>
__device__ void apply(Shared<kTile>& s, Size begin, Size end, Size cols, Floats y) {
  constexpr int kSize = Shared<kTile>::kSize, kLanes = kThreads / kSize > 0 ? kThreads / kSize : 1;
  const int j = threadIdx.x % kSize, lane = threadIdx.x / kSize;
  for (Size row = begin; row < end; row += kChunk) {
    __syncthreads();
    load_chunk(s, row, end, cols, y);
    __syncthreads();
    if (j >= cols) continue;
    for (int r = lane * 4; r < kChunk; r += kLanes * 4) {
      double sum[4] = {};
      for (int i = 0; i <= j; ++i) {
        if (s.dependent[i]) continue;
        const double f = s.factor[i][j];
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[k] += s.chunk[r + k][i] * f;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (row + r + k < end)
          y.row(row + r + k)[j] = s.dependent[j] ? noise(row + r + k, j) : static_cast<float>(sum[k]);
    }
  }
}

template <int kTile>
__global__ void __launch_bounds__(kThreads, 1) orthonormal(Size rows, Size cols, Floats y, double* workspace) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kTile>*>(memory);
  constexpr Size entries = Size(Shared<kTile>::kSize) * Shared<kTile>::kSize;
  const groups::grid_group grid = groups::this_grid();
  const Size share = (rows + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * share, end = min(rows, begin + share);
  double *gram = workspace, *partials = workspace + entries;
  for (int round = 0; round < 3; ++round) {
    partial_gram(s, begin, end, cols, y, partials + blockIdx.x * entries);
    grid.sync();
    for (Size e = blockIdx.x * Size(kThreads) + threadIdx.x; e < entries; e += Size(gridDim.x) * kThreads) {
      double sum = 0;
      for (unsigned block = 0; block < gridDim.x; ++block) sum += partials[block * entries + e];
      gram[e] = sum;
    }
    grid.sync();
    const bool accurate = factorise(s, gram, cols);  // every block the same
    apply(s, begin, end, cols, y);
    if (accurate) return;
  }
}

constexpr Size kLargestGrid = 132;

template <int kTile>
cudaError_t launch(Size rows, Size cols, Floats y, double* workspace, cudaStream_t stream) {
  constexpr int bytes = sizeof(Shared<kTile>);
  const auto kernel = orthonormal<kTile>;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  int device = 0, processors = 0;
  if (status == cudaSuccess) status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  const Size blocks = std::min<Size>({kLargestGrid, Size(processors), (rows + kChunk - 1) / kChunk});
  void* arguments[] = {&rows, &cols, &y, &workspace};
  status = cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)),
                                       dim3(kThreads), arguments, bytes, stream);
  return status == cudaSuccess ? cudaGetLastError() : status;
}

Size padded(Size cols) { return cols <= 16 ? 16 : cols <= 32 ? 32 : cols <= 64 ? 64 : 128; }

}  // namespace

Size orthonormalise_workspace(Size cols) { return (kLargestGrid + 1) * padded(cols) * padded(cols) * 8; }

cudaError_t orthonormalise(Size rows, Size cols, Floats y, void* workspace, cudaStream_t stream) {
  auto* doubles = static_cast<double*>(workspace);
  switch (padded(cols)) {
    case 16: return launch<1>(rows, cols, y, doubles, stream);
    case 32: return launch<2>(rows, cols, y, doubles, stream);
    case 64: return launch<4>(rows, cols, y, doubles, stream);
    default: return launch<8>(rows, cols, y, doubles, stream);
  }
}

}  // namespace sparlow::cuda::kernels
