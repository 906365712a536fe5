// Attention of single queries over the cache. A block takes up to four heads that read the same keys, and one split of
// the positions; the block that ends last for a row joins the splits, in their order, so that the same input gives the
// same bits.
#include <algorithm>

#include "cuda_numbers.cuh"
#include "cuda_ops.hpp"

namespace llama::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

struct Shape {
  int heads, group, tiles;  // heads that share keys; tiles of them
  int splits;               // as many as fit the longest row
};

struct Job {
  RowTable rows;
  Strided q;
  Cache cache;
  Shape shape;
  float* scratch;  // per row, head and split: largest score, sum, dim numbers
  unsigned* counters;
  void* out;
};

__device__ __forceinline__ float* part(const Job& job, int row, int head, int split) {
  const std::int64_t index = (static_cast<std::int64_t>(row) * job.shape.heads + head) * job.shape.splits + split;
  return job.scratch + index * (job.cache.dim + 2);
}

// What a block computes: for each of its heads the largest score, the sum of the exponentials, the weighted values.
template <int D>
struct Shared {
  float query[kGroupTile][D];
  float scores[kGroupTile][kSplit];
  float sums[kWarps][kGroupTile][D];
  float largest[kGroupTile], total[kGroupTile];
};

// Eight lanes share a position: a warp scores four at a time.
template <class T, int D>
__device__ void score(Shared<D>& shared, const T* keys, int count) {
  constexpr int kLane = D / 8, kLoad = kLane % 8 == 0 ? 8 : 4;
  const int lane = threadIdx.x % 8, first = threadIdx.x / 8;
  for (int p = first; p < kSplit; p += kThreads / 8) {
    float dots[kGroupTile] = {};
    if (p < count) {
#pragma unroll
      for (int c = 0; c < kLane; c += kLoad) {
        const int at = lane * kLoad + c * 8;
        const auto key = load<kLoad>(keys + static_cast<std::int64_t>(p) * D + at);
#pragma unroll
        for (int e = 0; e < kLoad; ++e)
#pragma unroll
          for (int h = 0; h < kGroupTile; ++h) dots[h] += shared.query[h][at + e] * to_float(key.values[e]);
      }
    }
#pragma unroll
    for (int h = 0; h < kGroupTile; ++h) {
      for (int step = 4; step > 0; step /= 2) dots[h] += __shfl_xor_sync(~0u, dots[h], step);
      if (lane == 0) shared.scores[h][p] = p < count ? dots[h] : -INFINITY;
    }
  }
}

// Warp h: scores of head h to exponentials.
template <int D>
__device__ void exponentials(Shared<D>& shared) {
  static_assert(kWarps == kGroupTile);
  const int lane = threadIdx.x % 32, h = threadIdx.x / 32;
  float largest = -INFINITY, total = 0;
  for (int p = lane; p < kSplit; p += 32) largest = fmaxf(largest, shared.scores[h][p]);
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  for (int p = lane; p < kSplit; p += 32) {
    const float e = __expf(shared.scores[h][p] - largest);
    shared.scores[h][p] = e;
    total += e;
  }
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
  if (lane == 0) shared.largest[h] = largest, shared.total[h] = total;
}

// A warp takes every fourth position, a lane D / 32 numbers of it.
template <class T, int D>
__device__ void weigh(Shared<D>& shared, const T* values, int count) {
  constexpr int kLane = D / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sums[kGroupTile][kLane] = {};
#pragma unroll 4
  for (int p = warp; p < count; p += kWarps) {
    T value[kLane];
#pragma unroll
    for (int e = 0; e < kLane; ++e) value[e] = values[static_cast<std::int64_t>(p) * D + lane + e * 32];
#pragma unroll
    for (int h = 0; h < kGroupTile; ++h) {
      const float weight = shared.scores[h][p];
#pragma unroll
      for (int e = 0; e < kLane; ++e) sums[h][e] += weight * to_float(value[e]);
    }
  }
  for (int h = 0; h < kGroupTile; ++h)
    for (int e = 0; e < kLane; ++e) shared.sums[warp][h][lane + e * 32] = sums[h][e];
}

template <int D>
__device__ __forceinline__ float summed(const Shared<D>& shared, int h, int d) {
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += shared.sums[w][h][d];
  return sum;
}

// True in all threads of the block that ends last of `blocks`, which then sees what the others wrote.
__device__ bool ends_last(unsigned* counter, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1) + 1 == blocks;
    if (last) *counter = 0;  // for the next call
  }
  __syncthreads();
  __threadfence();
  return last;
}

template <class T, int D>
__device__ void join(const Job& job, int row, int head, int heads, int splits) {
  for (int i = threadIdx.x; i < heads * D; i += kThreads) {
    const int h = head + i / D, d = i % D;
    float largest = -INFINITY, total = 0, sum = 0;
    for (int s = 0; s < splits; ++s) largest = fmaxf(largest, __ldcg(part(job, row, h, s)));
    for (int s = 0; s < splits; ++s) {
      const float* from = part(job, row, h, s);
      const float weight = __expf(__ldcg(from) - largest);
      total += weight * __ldcg(from + 1);
      sum += weight * __ldcg(from + 2 + d);
    }
    static_cast<T*>(job.out)[(static_cast<std::int64_t>(row) * job.shape.heads + h) * D + d] =
        from_float<T>(sum / total);
  }
}

// Grid: splits, tiles of heads, rows.
template <class T, int D>
__global__ void __launch_bounds__(kThreads) attention_kernel(Job job) {
  begin_after_previous();
  const int split = blockIdx.x, tile = blockIdx.y, row = blockIdx.z;
  const int length = job.rows.positions[row] + 1, first = split * kSplit;
  if (first >= length) return;
  const int count = min(kSplit, length - first), splits = (length + kSplit - 1) / kSplit;
  const int kv = tile / job.shape.tiles, inside = tile % job.shape.tiles * kGroupTile;
  const int head = kv * job.shape.group + inside, heads = min(kGroupTile, job.shape.group - inside);
  const Cache& cache = job.cache;
  const std::int64_t from =
      ((static_cast<std::int64_t>(job.rows.slots[row]) * cache.kv_heads + kv) * cache.context + first) * D;
  __shared__ Shared<D> shared;
  const T* q = static_cast<const T*>(job.q.data) + row * job.q.stride + head * D;
  const float scale = rsqrtf(static_cast<float>(D));
  for (int i = threadIdx.x; i < kGroupTile * D; i += kThreads)
    shared.query[i / D][i % D] = i / D < heads ? scale * to_float(q[i]) : 0.0f;
  __syncthreads();
  score(shared, static_cast<const T*>(cache.keys) + from, count);
  __syncthreads();
  exponentials(shared);
  __syncthreads();
  weigh(shared, static_cast<const T*>(cache.values) + from, count);
  __syncthreads();
  for (int i = threadIdx.x; i < heads * D; i += kThreads) {
    const int h = i / D, d = i % D;
    const float sum = summed(shared, h, d);
    if (splits == 1) {
      const std::int64_t to = (static_cast<std::int64_t>(row) * job.shape.heads + head + h) * D + d;
      static_cast<T*>(job.out)[to] = from_float<T>(sum / shared.total[h]);
      continue;
    }
    float* to = part(job, row, head + h, split);
    to[2 + d] = sum;
    if (d == 0) to[0] = shared.largest[h], to[1] = shared.total[h];
  }
  if (splits == 1) return;
  const unsigned tiles = gridDim.y;
  if (ends_last(job.counters + row * tiles + tile, splits)) join<T, D>(job, row, head, heads, splits);
}

int splits_of(int positions) { return (positions + kSplit - 1) / kSplit; }
int tiles_of(int heads, const Cache& cache) { return (heads / cache.kv_heads + kGroupTile - 1) / kGroupTile; }

}  // namespace

AttentionSizes attention_sizes(int rows, int heads, const Cache& cache) {
  const std::int64_t parts = std::int64_t{rows} * heads * splits_of(cache.context);
  return {parts * (cache.dim + 2) * std::int64_t{sizeof(float)},
          std::int64_t{rows} * cache.kv_heads * tiles_of(heads, cache) * std::int64_t{sizeof(unsigned)}};
}

bool has_attention(int dim) { return dim == 32 || dim == 64 || dim == 96 || dim == 128; }

void attention(sparlow_dtype dtype, const RowTable& rows, const Strided& q, int heads, const Cache& cache, int most,
               void* scratch, unsigned* counters, void* out, cudaStream_t stream) {
  const Shape shape{heads, heads / cache.kv_heads, tiles_of(heads, cache), splits_of(most)};
  const Job job{rows, q, cache, shape, static_cast<float*>(scratch), counters, out};
  const dim3 grid(static_cast<unsigned>(shape.splits), static_cast<unsigned>(cache.kv_heads * shape.tiles),
                  static_cast<unsigned>(rows.rows));
  with_type(dtype, [&]<class T>() {
    const auto run = [&](auto kernel) { launch(kernel, grid, kThreads, stream, job); };
    if (cache.dim == 32) run(attention_kernel<T, 32>);
    else if (cache.dim == 64) run(attention_kernel<T, 64>);
    else if (cache.dim == 96) run(attention_kernel<T, 96>);
    else run(attention_kernel<T, 128>);
  });
}

}  // namespace llama::cuda
