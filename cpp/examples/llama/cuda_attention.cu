// Attention of single queries over the cache. A block takes up to four heads that read the same keys, and one split of
// the positions; the block that ends last for a row joins the splits, in their order, so that the same input gives the
// same bits.
#include <algorithm>

#include "cuda_numbers.cuh"
#include "cuda_ops.hpp"

namespace llama::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
static_assert(kWarps >= kGroupTile);

struct Shape {
  int heads, group, tiles;  // heads that share keys; tiles of them
  int splits;               // as many as fit the longest row
};

struct Job {
  RowTable rows;
  Strided q;
  NewKeys fresh;
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
  alignas(16) float sums[kWarps][kGroupTile][D];
  float largest[kGroupTile], total[kGroupTile];
};

// Heads that are not there are zero.
template <class T, int D, bool kFresh>
__device__ void load_query(Shared<D>& shared, const Job& job, const T* q, int heads, int position) {
  constexpr int kHalf = D / 2;
  const float scale = rsqrtf(static_cast<float>(D));
  for (int n = threadIdx.x; n < kGroupTile * kHalf; n += kThreads) {
    const int h = n / kHalf, i = n % kHalf;
    float a = 0, b = 0;
    if (h < heads) a = to_float(q[h * D + i]), b = to_float(q[h * D + i + kHalf]);
    if constexpr (kFresh) {
      const float c = job.fresh.angles.cosines[position * kHalf + i], s = job.fresh.angles.sines[position * kHalf + i];
      const float turned = rounded<T>(rounded<T>(a * c) - rounded<T>(b * s));
      b = rounded<T>(rounded<T>(b * c) + rounded<T>(a * s));
      a = turned;
    }
    shared.query[h][i] = scale * a;
    shared.query[h][i + kHalf] = scale * b;
  }
}

// The row's own key and value, into the cache.
template <class T, int D>
__device__ void store_fresh(const Job& job, int row, int kv, int position, T* key_to, T* value_to) {
  constexpr int kHalf = D / 2;
  const T* key = static_cast<const T*>(job.fresh.k.data) + row * job.fresh.k.stride + kv * D;
  const T* value = static_cast<const T*>(job.fresh.v.data) + row * job.fresh.v.stride + kv * D;
  for (int i = threadIdx.x; i < kHalf; i += kThreads) {
    const float a = to_float(key[i]), b = to_float(key[i + kHalf]);
    const float c = job.fresh.angles.cosines[position * kHalf + i], s = job.fresh.angles.sines[position * kHalf + i];
    key_to[i] = from_float<T>(rounded<T>(a * c) - rounded<T>(b * s));
    key_to[i + kHalf] = from_float<T>(rounded<T>(b * c) + rounded<T>(a * s));
    value_to[i] = value[i];
    value_to[i + kHalf] = value[i + kHalf];
  }
}

// Eight lanes share a position. All loads are on their way before the first is used.
template <class T, int D>
__device__ void score(Shared<D>& shared, const T* keys, int count) {
  constexpr int kLane = D / 8, kLoad = kLane % 8 == 0 ? 8 : 4, kLoads = kLane / kLoad;
  constexpr int kAtOnce = kThreads / 8, kPasses = kSplit / kAtOnce;
  const int lane = threadIdx.x % 8, first = threadIdx.x / 8;
  Pack<T, kLoad> key[kPasses][kLoads];
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass)
#pragma unroll
    for (int l = 0; l < kLoads; ++l) {
      const int p = min(first + pass * kAtOnce, count - 1);
      key[pass][l] = load<kLoad>(keys + p * D + (l * 8 + lane) * kLoad);
    }
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    float dots[kGroupTile] = {};
#pragma unroll
    for (int l = 0; l < kLoads; ++l)
#pragma unroll
      for (int e = 0; e < kLoad; ++e)
#pragma unroll
        for (int h = 0; h < kGroupTile; ++h)
          dots[h] += shared.query[h][(l * 8 + lane) * kLoad + e] * to_float(key[pass][l].values[e]);
    const int p = first + pass * kAtOnce;
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
  const int lane = threadIdx.x % 32, h = threadIdx.x / 32;
  if (h >= kGroupTile) return;
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

// A warp takes every eighth position, a lane D / 32 numbers of it. Positions that are not there weigh nothing.
template <class T, int D>
__device__ void weigh(Shared<D>& shared, const T* values, int count) {
  constexpr int kLane = D / 32, kPasses = kSplit / kWarps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Pack<T, kLane> value[kPasses];
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass)
    value[pass] = load<kLane>(values + min(pass * kWarps + warp, count - 1) * D + lane * kLane);
  float sums[kGroupTile][kLane] = {};
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass)
#pragma unroll
    for (int h = 0; h < kGroupTile; ++h) {
      const float weight = shared.scores[h][pass * kWarps + warp];
#pragma unroll
      for (int e = 0; e < kLane; ++e) sums[h][e] += weight * to_float(value[pass].values[e]);
    }
#pragma unroll
  for (int h = 0; h < kGroupTile; ++h)
#pragma unroll
    for (int e = 0; e < kLane; ++e) shared.sums[warp][h][lane * kLane + e] = sums[h][e];
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

// Warp h joins the largest scores and sums of head h, then all threads the values.
template <class T, int D>
__device__ void join(Shared<D>& shared, const Job& job, int row, int head, int heads, int splits) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (warp < heads) {
    float largest = -INFINITY, total = 0;
    for (int s = lane; s < splits; s += 32) largest = fmaxf(largest, __ldcg(part(job, row, head + warp, s)));
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    for (int s = lane; s < splits; s += 32) {
      const float* from = part(job, row, head + warp, s);
      total += __expf(__ldcg(from) - largest) * __ldcg(from + 1);
    }
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
    if (lane == 0) shared.largest[warp] = largest, shared.total[warp] = total;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * D; i += kThreads) {
    const int h = i / D, d = i % D;
    float sum = 0;
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float* from = part(job, row, head + h, s);
      sum += __expf(__ldcg(from) - shared.largest[h]) * __ldcg(from + 2 + d);
    }
    const std::int64_t to = (static_cast<std::int64_t>(row) * job.shape.heads + head + h) * D + d;
    static_cast<T*>(job.out)[to] = from_float<T>(sum / shared.total[h]);
  }
}

// The block's share of the row: written out when there is no other, kept for `join` when there is.
template <class T, int D>
__device__ void put(Shared<D>& shared, const Job& job, int row, int head, int heads, int split, int splits) {
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
}

// Grid: splits, tiles of heads, rows.
template <class T, int D, bool kFresh>
__global__ void __launch_bounds__(kThreads) attention_kernel(Job job) {
  begin_after_previous();
  const int split = blockIdx.x, tile = blockIdx.y, row = blockIdx.z;
  const int position = job.rows.positions[row], length = position + 1, first = split * kSplit;
  if (first >= length) return;
  const int count = min(kSplit, length - first), splits = (length + kSplit - 1) / kSplit;
  const int kv = tile / job.shape.tiles, inside = tile % job.shape.tiles * kGroupTile;
  const int head = kv * job.shape.group + inside, heads = min(kGroupTile, job.shape.group - inside);
  const Cache& cache = job.cache;
  const std::int64_t from =
      ((static_cast<std::int64_t>(job.rows.slots[row]) * cache.kv_heads + kv) * cache.context + first) * D;
  T *keys = static_cast<T*>(cache.keys) + from, *values = static_cast<T*>(cache.values) + from;
  __shared__ Shared<D> shared;
  load_query<T, D, kFresh>(shared, job, static_cast<const T*>(job.q.data) + row * job.q.stride + head * D, heads,
                           position);
  if (kFresh && split == splits - 1)
    store_fresh<T, D>(job, row, kv, position, keys + (count - 1) * D, values + (count - 1) * D);
  __syncthreads();
  score<T, D>(shared, keys, count);
  __syncthreads();
  exponentials(shared);
  __syncthreads();
  weigh<T, D>(shared, values, count);
  __syncthreads();
  put<T, D>(shared, job, row, head, heads, split, splits);
  if (splits == 1) return;
  if (ends_last(job.counters + row * gridDim.y + tile, splits)) join<T, D>(shared, job, row, head, heads, splits);
}

template <class T, bool kFresh>
void launch_attention(const Job& job, dim3 grid, cudaStream_t stream) {
  const auto run = [&](auto kernel) { launch(kernel, grid, kThreads, stream, job); };
  if (job.cache.dim == 32) run(attention_kernel<T, 32, kFresh>);
  else if (job.cache.dim == 64) run(attention_kernel<T, 64, kFresh>);
  else run(attention_kernel<T, 128, kFresh>);
}

int splits_of(int positions) { return (positions + kSplit - 1) / kSplit; }
int tiles_of(int heads, const Cache& cache) { return (heads / cache.kv_heads + kGroupTile - 1) / kGroupTile; }

}  // namespace

AttentionSizes attention_sizes(int rows, int heads, const Cache& cache) {
  const std::int64_t parts = std::int64_t{rows} * heads * splits_of(cache.context);
  return {parts * (cache.dim + 2) * std::int64_t{sizeof(float)},
          std::int64_t{rows} * cache.kv_heads * tiles_of(heads, cache) * std::int64_t{sizeof(unsigned)}};
}

bool has_attention(int dim) { return dim == 32 || dim == 64 || dim == 128; }

void attention(sparlow_dtype dtype, const RowTable& rows, const Strided& q, const NewKeys* fresh, int heads,
               const Cache& cache, int most, void* scratch, unsigned* counters, void* out, cudaStream_t stream) {
  const Shape shape{heads, heads / cache.kv_heads, tiles_of(heads, cache), splits_of(most)};
  const NewKeys keys = fresh == nullptr ? NewKeys{} : *fresh;
  const Job job{rows, q, keys, cache, shape, static_cast<float*>(scratch), counters, out};
  const dim3 grid(static_cast<unsigned>(shape.splits), static_cast<unsigned>(cache.kv_heads * shape.tiles),
                  static_cast<unsigned>(rows.rows));
  with_type(dtype, [&]<class T>() {
    if (fresh != nullptr) launch_attention<T, true>(job, grid, stream);
    else launch_attention<T, false>(job, grid, stream);
  });
}

}  // namespace llama::cuda
