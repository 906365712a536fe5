#include <algorithm>

#include "cuda_numbers.cuh"
#include "cuda_ops.hpp"

namespace llama::cuda {
namespace {

constexpr int kVector = 8;  // elements of 16 bytes; widths are multiples of it
constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

template <class T>
__global__ void embed_kernel(RowTable rows, const T* table, int width, T* hidden) {
  begin_after_previous();
  const int row = blockIdx.x;
  const T* from = table + static_cast<std::int64_t>(rows.tokens[row]) * width;
  T* to = hidden + static_cast<std::int64_t>(row) * width;
  for (int i = threadIdx.x * kVector; i < width; i += blockDim.x * kVector)
    store<kVector>(to + i, load<kVector>(from + i));
}

// kChunks: of 8 elements, of one thread, kept in registers between the two passes.
template <class T, int kChunks>
__global__ void __launch_bounds__(512)
    add_norm_kernel(T* hidden, const T* y, const T* weight, float epsilon, int width, T* out) {
  begin_after_previous();
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * width;
  Pack<T, kVector> kept[kChunks];
  float squares = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int i = (c * blockDim.x + threadIdx.x) * kVector;
    if (i >= width) break;
    kept[c] = load<kVector>(hidden + row + i);
    if (y != nullptr) {
      const auto more = load<kVector>(y + row + i);
      for (int e = 0; e < kVector; ++e)
        kept[c].values[e] = from_float<T>(to_float(kept[c].values[e]) + to_float(more.values[e]));
      store<kVector>(hidden + row + i, kept[c]);
    }
    for (int e = 0; e < kVector; ++e) squares += to_float(kept[c].values[e]) * to_float(kept[c].values[e]);
  }
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(width) + epsilon);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int i = (c * blockDim.x + threadIdx.x) * kVector;
    if (i >= width) break;
    const auto w = load<kVector>(weight + i);
    Pack<T, kVector> result;
    for (int e = 0; e < kVector; ++e)
      result.values[e] = from_float<T>(to_float(w.values[e]) * rounded<T>(to_float(kept[c].values[e]) * scale));
    store<kVector>(out + row + i, result);
  }
}

template <class T>
__device__ __forceinline__ void turn(const T* from, T* to, int i, int half, float c, float s) {
  const float a = to_float(from[i]), b = to_float(from[i + half]);
  to[i] = from_float<T>(rounded<T>(a * c) - rounded<T>(b * s));
  to[i + half] = from_float<T>(rounded<T>(b * c) + rounded<T>(a * s));
}

// One block a row and head; heads of q, then of k and v.
template <class T>
__global__ void rotate_kernel(RowTable rows, Strided q, Strided k, Strided v, Angles angles, int heads, Cache cache) {
  begin_after_previous();
  const int row = blockIdx.x, head = blockIdx.y, half = cache.dim / 2;
  const int position = rows.positions[row];
  const float* cosines = angles.cosines + static_cast<std::int64_t>(position) * half;
  const float* sines = angles.sines + static_cast<std::int64_t>(position) * half;
  if (head < heads) {
    T* x = static_cast<T*>(q.data) + row * q.stride + head * cache.dim;
    for (int i = threadIdx.x; i < half; i += blockDim.x) turn(x, x, i, half, cosines[i], sines[i]);
    return;
  }
  const int kv = head - heads;
  const std::int64_t to =
      ((static_cast<std::int64_t>(rows.slots[row]) * cache.kv_heads + kv) * cache.context + position) * cache.dim;
  const T* key = static_cast<const T*>(k.data) + row * k.stride + kv * cache.dim;
  const T* value = static_cast<const T*>(v.data) + row * v.stride + kv * cache.dim;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    turn(key, static_cast<T*>(cache.keys) + to, i, half, cosines[i], sines[i]);
    static_cast<T*>(cache.values)[to + i] = value[i];
    static_cast<T*>(cache.values)[to + i + half] = value[i + half];
  }
}

template <class T>
__global__ void silu_kernel(int rows, Strided gate, Strided up, int width, T* out) {
  begin_after_previous();
  const std::int64_t chunk = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x,
                     per_row = width / kVector;
  const std::int64_t row = chunk / per_row, i = chunk % per_row * kVector;
  if (row >= rows) return;
  auto g = load<kVector>(static_cast<const T*>(gate.data) + row * gate.stride + i);
  const auto u = load<kVector>(static_cast<const T*>(up.data) + row * up.stride + i);
  for (int e = 0; e < kVector; ++e) {
    const float x = to_float(g.values[e]);
    g.values[e] = from_float<T>(rounded<T>(x / (1.0f + __expf(-x))) * to_float(u.values[e]));
  }
  store<kVector>(out + row * width + i, g);
}

template <class T>
__global__ void bias_kernel(Strided y, const T* bias, int width) {
  begin_after_previous();
  T* to = static_cast<T*>(y.data) + blockIdx.y * y.stride;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < width) to[i] = from_float<T>(to_float(to[i]) + to_float(bias[i]));
}

template <class T>
__global__ void gather_kernel(const int* which, const T* from, int width, T* to) {
  begin_after_previous();
  const std::int64_t source = static_cast<std::int64_t>(which[blockIdx.x]) * width;
  for (int i = threadIdx.x * kVector; i < width; i += blockDim.x * kVector)
    store<kVector>(to + static_cast<std::int64_t>(blockIdx.x) * width + i, load<kVector>(from + source + i));
}

// Order of floats as integers; NaN comes last of all, so that it is the maximum. Ties go to the lower index.
__device__ __forceinline__ unsigned long long key_of(float x, int index) {
  const unsigned bits = __float_as_uint(x);
  const unsigned ordered = x != x ? ~0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | static_cast<unsigned>(~index);
}

template <class T>
__global__ void argmax_kernel(const T* logits, int vocabulary, unsigned long long* best) {
  begin_after_previous();
  const T* row = logits + static_cast<std::int64_t>(blockIdx.y) * vocabulary;
  unsigned long long mine = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < vocabulary; i += gridDim.x * blockDim.x)
    mine = max(mine, key_of(to_float(row[i]), i));
  for (int step = 16; step > 0; step /= 2) mine = max(mine, __shfl_xor_sync(~0u, mine, step));
  if (threadIdx.x % 32 == 0) atomicMax(best + blockIdx.y, mine);
}

// Also makes `best` ready for the next call.
__global__ void token_kernel(int rows, unsigned long long* best, int* tokens) {
  begin_after_previous();
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  tokens[row] = best[row] >> 32 == ~0u ? -1 : static_cast<int>(~static_cast<unsigned>(best[row]));
  best[row] = 0;
}

template <class T>
void launch_norm(int rows, T* hidden, const T* y, const T* weight, float epsilon, int width, T* out,
                 cudaStream_t stream) {
  const int chunks = (width + kVector - 1) / kVector, threads = chunks <= 512 ? (chunks + 31) / 32 * 32 : 512;
  const auto run = [&](auto kernel) { launch(kernel, rows, threads, stream, hidden, y, weight, epsilon, width, out); };
  if (chunks <= 512) run(add_norm_kernel<T, 1>);
  else if (chunks <= 1024) run(add_norm_kernel<T, 2>);
  else run(add_norm_kernel<T, 8>);  // up to 32768
}

}  // namespace

void embed(sparlow_dtype dtype, const RowTable& rows, const void* table, int width, void* hidden, cudaStream_t stream) {
  // Behind a copy, which it has to wait for as a whole.
  with_type(dtype, [&]<class T>() {
    embed_kernel<<<rows.rows, 128, 0, stream>>>(rows, static_cast<const T*>(table), width, static_cast<T*>(hidden));
  });
  check(cudaGetLastError(), "launching a kernel");
}

void add_norm(sparlow_dtype dtype, int rows, void* hidden, const void* y, const void* weight, float epsilon, int width,
              void* out, cudaStream_t stream) {
  with_type(dtype, [&]<class T>() {
    launch_norm(rows, static_cast<T*>(hidden), static_cast<const T*>(y), static_cast<const T*>(weight), epsilon, width,
                static_cast<T*>(out), stream);
  });
}

void rotate_and_store(sparlow_dtype dtype, const RowTable& rows, const Strided& q, const Strided& k, const Strided& v,
                      const Angles& angles, int heads, const Cache& cache, cudaStream_t stream) {
  with_type(dtype, [&]<class T>() {
    const dim3 grid(static_cast<unsigned>(rows.rows), static_cast<unsigned>(heads + cache.kv_heads));
    launch(rotate_kernel<T>, grid, 64, stream, rows, q, k, v, angles, heads, cache);
  });
}

void silu_multiply(sparlow_dtype dtype, int rows, const Strided& gate, const Strided& up, int width, void* out,
                   cudaStream_t stream) {
  with_type(dtype, [&]<class T>() {
    const unsigned blocks = blocks_for(std::int64_t{rows} * width / kVector);
    launch(silu_kernel<T>, blocks, kThreads, stream, rows, gate, up, width, out);
  });
}

void add_bias(sparlow_dtype dtype, int rows, const Strided& y, const void* bias, int width, cudaStream_t stream) {
  with_type(dtype, [&]<class T>() {
    launch(bias_kernel<T>, dim3(blocks_for(width), rows), kThreads, stream, y, bias, width);
  });
}

void gather(sparlow_dtype dtype, int rows, const int* which, const void* from, int width, void* to,
            cudaStream_t stream) {
  with_type(dtype, [&]<class T>() { launch(gather_kernel<T>, rows, 128, stream, which, from, width, to); });
}

void argmax(sparlow_dtype dtype, int rows, const void* logits, int vocabulary, unsigned long long* best, int* tokens,
            cudaStream_t stream) {
  with_type(dtype, [&]<class T>() {
    const unsigned blocks = std::min(64u, blocks_for(vocabulary));
    launch(argmax_kernel<T>, dim3(blocks, rows), kThreads, stream, logits, vocabulary, best);
    launch(token_kernel, blocks_for(rows), kThreads, stream, rows, best, tokens);
  });
}

}  // namespace llama::cuda
