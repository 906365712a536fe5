// Shared by the steps of the ladder: a random layer, a reference in float64, the dense baseline, timing.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "../../../cuda/kernels/nm24_args.cuh"
#include "../../../cuda/kernels/nm24_plan.hpp"

namespace ladder {

using namespace sparlow::kernels;
using Bf16 = __nv_bfloat16;

#define CHECK(call)                                                                           \
  do {                                                                                        \
    const auto status_ = (call);                                                              \
    if (static_cast<int>(status_) != 0) {                                                     \
      std::printf("%s:%d: %s -> %d\n", __FILE__, __LINE__, #call, static_cast<int>(status_)); \
      std::fflush(stdout);                                                                    \
      std::_Exit(1);                                                                          \
    }                                                                                         \
  } while (0)

__host__ __device__ inline std::uint32_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<std::uint32_t>((x ^ (x >> 31)) >> 16);
}
// About normal, mean 0: the sum of four uniforms.
__device__ inline Bf16 random_value(std::uint64_t seed, std::uint64_t i, float scale) {
  float sum = 0;
  for (int k = 0; k < 4; ++k) sum += static_cast<float>(mix(seed * 0x9e3779b97f4a7c15ull + 4 * i + k)) * 0x1p-32f - .5f;
  return __float2bfloat16(sum * scale);
}
__device__ inline std::uint32_t random_nibbles(std::uint64_t seed, std::uint64_t i) {
  constexpr std::uint32_t legal = 0xEDC984;  // the six ascending pairs
  std::uint32_t bits = 0;
  for (int k = 0; k < 8; ++k) bits |= (legal >> (4 * (mix(seed * 77 + 8 * i + k) % 6)) & 15) << (4 * k);
  return bits;
}
__global__ void fill_values(Bf16* p, std::size_t n, std::uint64_t seed, float scale) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull)
    p[i] = random_value(seed, i, scale);
}
__global__ void fill_nibbles(std::uint32_t* p, std::size_t words, std::uint64_t seed) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < words; i += gridDim.x * 256ull)
    p[i] = random_nibbles(seed, i);
}
__global__ void pack_weights(std::uint32_t* out, CheckpointNm24 s, std::size_t words) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < words; i += gridDim.x * 256ull)
    out[i] = weight_word(s, i);
}
__global__ void pack_u(std::uint32_t* out, Dense16 u, std::size_t words) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < words; i += gridDim.x * 256ull)
    out[i] = u_word(u, u.cols, i);
}
__global__ void pack_v(std::uint32_t* out, Dense16 v, std::size_t words) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < words; i += gridDim.x * 256ull) out[i] = v_word(v, i);
}

// y in float64 of the same 16-bit numbers. One warp an output.
__global__ void reference(double* y, const Bf16* x, CheckpointNm24 s, const Bf16* u, const double* t, int rank,
                          int part_rows, int tokens) {
  const int lane = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32, token = blockIdx.y;
  if (row >= s.d_out) return;
  double sum = 0;
  for (int g = lane; g < s.d_in / 4; g += 32) {
    const std::uint32_t pair = s.pair(row, g), nibble = s.nibble(row, g);
    const auto low = __ushort_as_bfloat16(pair & 0xffff), high = __ushort_as_bfloat16(pair >> 16);
    const Bf16* group = x + static_cast<std::size_t>(token) * s.d_in + 4 * g;
    sum += double(__bfloat162float(low)) * double(__bfloat162float(group[nibble & 3])) +
           double(__bfloat162float(high)) * double(__bfloat162float(group[nibble >> 2]));
  }
  for (int r = lane; r < rank; r += 32)
    sum += double(__bfloat162float(u[static_cast<std::size_t>(row) * rank + r])) *
           t[(static_cast<std::size_t>(row / part_rows) * rank + r) * tokens + token];
  for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (lane == 0) y[static_cast<std::size_t>(token) * s.d_out + row] = sum;
}
__global__ void reference_t(double* t, const Bf16* x, const Bf16* v, int ranks, int d_in, int tokens) {
  const int lane = threadIdx.x, r = blockIdx.x, token = blockIdx.y;
  double sum = 0;
  for (int k = lane; k < d_in; k += 32)
    sum += double(__bfloat162float(v[static_cast<std::size_t>(r) * d_in + k])) *
           double(__bfloat162float(x[static_cast<std::size_t>(token) * d_in + k]));
  for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  if (lane == 0) t[static_cast<std::size_t>(r) * tokens + token] = sum;
}

// Reads everything once: the bandwidth a kernel can hope for.
__global__ void read_all(const uint4* p, std::size_t n, std::uint32_t* sink) {
  std::uint32_t sum = 0;
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 7 * stride < n; i += 8 * stride) {
    uint4 q[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k] = __ldcs(p + i + k * stride);
#pragma unroll
    for (int k = 0; k < 8; ++k) sum ^= q[k].x ^ q[k].y ^ q[k].z ^ q[k].w;
  }
  if (sum == 0x12345678) *sink = sum;
}

template <typename T>
T* device(std::size_t n) {
  void* p = nullptr;
  CHECK(cudaMalloc(&p, std::max<std::size_t>(n, 4) * sizeof(T)));
  return static_cast<T*>(p);
}

// Of the kernel for many tokens: tokens, whether blocks share x, or how many split the columns.
inline std::string tile_name(int variant) {
  const ManyConfig& c = kManyConfigs[variant];
  return std::to_string(c.tokens) + (c.cluster > 1 ? " shared" : "") +
         (c.splits > 1 ? " / " + std::to_string(c.splits) : "") + (c.step > 1 ? " in twos" : "");
}

using Launch = std::function<void(int copy, cudaStream_t)>;

// Median microseconds of one call: a CUDA graph of calls that walk through all copies, replayed.
inline double microseconds(const Launch& launch, int copies, cudaStream_t stream, int replays = 11) {
  const int calls = copies * std::max(1, 24 / copies);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) launch(i % copies, stream);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  std::vector<double> times;
  for (int i = -3; i < replays; ++i) {
    CHECK(cudaEventRecord(start, stream));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaEventRecord(stop, stream));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 0) times.push_back(1000. * ms / calls);
  }
  CHECK(cudaGetLastError());
  CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// cuBLAS through dlopen, so that the ladder links against nothing but the CUDA runtime.
struct Cublas {
  using Gemm = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void*,
                                  const void*, cudaDataType, int, const void*, cudaDataType, int, const void*, void*,
                                  cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
  cublasHandle_t handle{};
  Gemm gemm{};
  explicit Cublas(cudaStream_t stream) {
    void* library = dlopen("libcublas.so.13", RTLD_NOW);
    if (!library) library = dlopen("libcublas.so", RTLD_NOW);
    if (!library) std::printf("no cuBLAS: %s\n", dlerror()), std::exit(1);
    gemm = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"));
    auto create = reinterpret_cast<decltype(&cublasCreate_v2)>(dlsym(library, "cublasCreate_v2"));
    auto use = reinterpret_cast<decltype(&cublasSetStream_v2)>(dlsym(library, "cublasSetStream_v2"));
    auto room = reinterpret_cast<decltype(&cublasSetWorkspace_v2)>(dlsym(library, "cublasSetWorkspace_v2"));
    CHECK(create(&handle));
    CHECK(use(handle, stream));
    CHECK(room(handle, device<char>(64 << 20), 64 << 20));
  }
  void linear(const Bf16* w, const Bf16* x, Bf16* y, int d_out, int d_in, int tokens) const {
    const float one = 1, zero = 0;
    CHECK(gemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, d_out, tokens, d_in, &one, w, CUDA_R_16BF, d_in, x, CUDA_R_16BF, d_in,
               &zero, y, CUDA_R_16BF, d_out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  }
};

// Of n results against float64, both on the device.
inline double relative_error(const Bf16* y, const double* y64, std::size_t n) {
  std::vector<Bf16> got(n);
  std::vector<double> want(n);
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaMemcpy(got.data(), y, n * 2, cudaMemcpyDeviceToHost));
  CHECK(cudaMemcpy(want.data(), y64, n * 8, cudaMemcpyDeviceToHost));
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double d = double(__bfloat162float(got[i])) - want[i];
    difference += d * d, norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

// A layer of `parts` stacked layers of equal height (q, k, v or gate, up), copy 0 with a checkpoint to check against.
struct Layer {
  int d_out, d_in, rank, parts, copies;
  std::size_t weight_n, u_n, v_n;  // words
  std::uint32_t *weights, *u, *v;
  Bf16 *values, *u_plain, *v_plain, *x, *y;
  std::uint8_t* meta;
  Progress* progress;
  Mailbox *t_shares, *t_sums;
  double *t64, *y64;
  static constexpr int kMaxTokens = 64;

  Layer(int d_out, int d_in, int rank, int parts, double rotate_bytes = 420e6)
      : d_out(d_out), d_in(d_in), rank(rank), parts(parts) {
    weight_n = weight_words(d_out, d_in), u_n = u_words(d_out, rank), v_n = parts * v_words(rank, d_in);
    copies = std::max(2, static_cast<int>(rotate_bytes / (4. * (weight_n + u_n + v_n))) + 1);
    weights = device<std::uint32_t>(weight_n * copies), u = device<std::uint32_t>(u_n * copies);
    v = device<std::uint32_t>(v_n * copies);
    const std::size_t meta_words = (static_cast<std::size_t>(d_out) * ((d_in + 7) / 8) + 3) / 4;
    values = device<Bf16>(static_cast<std::size_t>(d_out) * d_in / 2);
    meta = reinterpret_cast<std::uint8_t*>(device<std::uint32_t>(meta_words));
    u_plain = device<Bf16>(static_cast<std::size_t>(d_out) * rank);
    v_plain = device<Bf16>(static_cast<std::size_t>(parts) * rank * d_in);
    x = device<Bf16>(static_cast<std::size_t>(kMaxTokens) * d_in);
    y = device<Bf16>(static_cast<std::size_t>(kMaxTokens) * d_out);
    progress = reinterpret_cast<Progress*>(device<unsigned>(1024));
    CHECK(cudaMemset(progress, 0, 4096));
    t_shares = device<Mailbox>(1 << 18), t_sums = device<Mailbox>(1 << 18);
    CHECK(cudaMemset(t_shares, 0, 16 << 18));
    CHECK(cudaMemset(t_sums, 0, 16 << 18));
    t64 = device<double>(static_cast<std::size_t>(parts) * rank * kMaxTokens);
    y64 = device<double>(static_cast<std::size_t>(d_out) * kMaxTokens);
    fill_values<<<1024, 256>>>(values, static_cast<std::size_t>(d_out) * d_in / 2, 1, .03f);
    fill_nibbles<<<1024, 256>>>(reinterpret_cast<std::uint32_t*>(meta), meta_words, 2);
    fill_values<<<1024, 256>>>(u_plain, static_cast<std::size_t>(d_out) * rank, 3, .1f);
    fill_values<<<1024, 256>>>(v_plain, static_cast<std::size_t>(parts) * rank * d_in, 4, .02f);
    fill_values<<<1024, 256>>>(x, static_cast<std::size_t>(kMaxTokens) * d_in, 5, 1.f);
    for (int c = 0; c < copies; ++c) pack(c);
    CHECK(cudaDeviceSynchronize());
  }
  ~Layer() {
    for (void* p : {(void*)weights, (void*)u, (void*)v, (void*)values, (void*)meta, (void*)u_plain, (void*)v_plain,
                    (void*)x, (void*)y, (void*)progress, (void*)t_shares, (void*)t_sums, (void*)t64, (void*)y64})
      cudaFree(p);
  }
  void pack(int c) {
    pack_weights<<<2048, 256>>>(weights + c * weight_n, checkpoint(), weight_n);
    const int part_rows = d_out / parts;
    for (int p = 0; p < parts; ++p) {
      const std::size_t un = u_words(part_rows, rank), vn = v_words(rank, d_in);
      pack_u<<<512, 256>>>(
          u + c * u_n + p * un,
          Dense16{reinterpret_cast<std::uint16_t*>(u_plain) + std::size_t(p) * part_rows * rank, part_rows, rank}, un);
      const Dense16 from{reinterpret_cast<std::uint16_t*>(v_plain) + std::size_t(p) * rank * d_in, rank, d_in};
      pack_v<<<512, 256>>>(v + c * v_n + p * vn, from, vn);
    }
  }
  CheckpointNm24 checkpoint() const { return {reinterpret_cast<std::uint16_t*>(values), meta, d_out, d_in}; }
  ForwardArgs args(int copy, int tokens, int group_tiles = 1) const {
    ForwardArgs a{};
    a.weights = reinterpret_cast<const uint4*>(weights + copy * weight_n);
    a.u = reinterpret_cast<const uint4*>(u + copy * u_n), a.v = reinterpret_cast<const uint4*>(v + copy * v_n);
    a.x = x, a.y = y, a.progress = progress, a.t_shares = t_shares, a.t_sums = t_sums;
    a.d_out = d_out, a.d_in = d_in, a.tokens = tokens;
    a.group_tiles = group_tiles, a.wide_x = d_in % 8 == 0;
    a.column_blocks = blocks(d_in, kColumnBlock), a.rank_steps = blocks(rank, kRankBlock), a.parts = parts;
    for (int p = 0; p < kMaxParts - 1; ++p)
      a.part_end[p] = p + 1 < parts ? (p + 1) * (d_out / parts) / kRowBlock : 1 << 30;
    return a;
  }
  void make_reference(int tokens) {
    if (rank) reference_t<<<dim3(parts * rank, tokens), 32>>>(t64, x, v_plain, parts * rank, d_in, tokens);
    reference<<<dim3((d_out + 7) / 8, tokens), 256>>>(y64, x, checkpoint(), u_plain, t64, rank, d_out / parts, tokens);
    CHECK(cudaDeviceSynchronize());
  }
  void poison() { CHECK(cudaMemset(y, 0xff, sizeof(Bf16) * kMaxTokens * d_out)); }
  // ‖y - y64‖ / ‖y64‖; NaN stays NaN.
  double error(int tokens) const { return relative_error(y, y64, static_cast<std::size_t>(tokens) * d_out); }
  // What has to move: unpadded weights and factors, x and y.
  double bytes(int tokens) const {
    return 2. * (9. / 16 * d_out * d_in + double(d_out) * rank + double(parts) * rank * d_in +
                 double(tokens) * (d_out + d_in));
  }
};

enum class Overlap { none, all };  // may a kernel start before its predecessor has ended

// x as boxes of 64 columns and `box` tokens with a 128-byte swizzle.
inline CUtensorMap map_of_x(const ForwardArgs& a, int box) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found));
    return reinterpret_cast<Encode>(f);
  }();
  CUtensorMap map;
  const cuuint64_t size[] = {cuuint64_t(a.d_in), cuuint64_t(a.tokens)}, stride[] = {cuuint64_t(a.d_in) * 2};
  const cuuint32_t boxes[] = {64, cuuint32_t(box)}, steps[] = {1, 1};
  CHECK(encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(a.x), size, stride, boxes, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  return map;
}

template <typename Kernel, typename... Args>
void launch(Kernel kernel, dim3 grid, int threads, int shared, int cluster, bool overlap, cudaStream_t stream,
            const Args&... args) {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = attributes;
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  if (overlap) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

}  // namespace ladder
