// What the matrix units reach under the power limit: blocks that do nothing but the products of the kernel for many
// tokens (two warpgroups, tiles of 128 rows and 256 tokens) and copies from L2 to shared memory, as many bytes a stage
// as tiles of several kinds take; no t, no ranks, no y. Products do not wait for copies, and copies overwrite what is
// being multiplied: the sums mean nothing, and nobody waits for anything but the hardware. The real kernel can come
// close to that and no closer.
//
// Operands are random numbers, as zeros would take less power. A row is the last of eight launches of some 10 ms, and
// all rows come twice, since the device grows hotter. "own": each block copies pieces of its own; "same": all the same
// ones. Cycles, GHz and bytes a clock are of one block. CSV.
#include "../../../cuda/kernels/nm24_many_load.cuh"
#include "../../../cuda/kernels/nm24_warpgroup_many.cuh"
#include "harness.cuh"

using namespace ladder;

namespace {

using Tile = ManyShape<256, 1, 1, 5, 1>;
constexpr int kStages = 4, kSharedBytes = kStages * Tile::kStageBytes + 1024;
constexpr int kProducts = 60000;    // of a warpgroup in a launch
constexpr int kLead = 2 * kStages;  // stages that copies may be ahead of products: these never keep them waiting
constexpr int kPieces = 256, kPieceBytes = 65536;  // what is copied: 16 MB, which stay in L2
constexpr std::uint32_t kPositions = 0x4444eeee;   // legal: kept are the first or the last two of four
static_assert(Tile::kStageBytes <= kPieceBytes);

// Where and what the weights are: 2:4 or dense.
enum class Weights { sparse_shared, sparse_registers, dense_registers };
template <Weights kWeights>
constexpr int kProductColumns = kWeights == Weights::dense_registers ? 16 : 32;
template <Weights kWeights>
constexpr int kStageProducts = kManyColumns / kProductColumns<kWeights>;

struct Copies {
  const unsigned char* source;
  int bytes;  // of a stage; 0: none
  bool same;  // for all blocks
};

// Of the first block.
struct Counts {
  long long product_cycles, copy_cycles, copies;
  float unused;  // keeps the sums from being optimised away
};

// Two numbers of 0.5 to 2 with any sign.
__device__ std::uint32_t noise(std::uint64_t i) {
  const std::uint32_t bits = mix(i * 0x9e3779b97f4a7c15ull);
  return (bits & 0x80ff80ff) | 0x3f003f00;
}
__global__ void fill_noise(std::uint32_t* p, std::size_t n) {
  for (std::size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) p[i] = noise(i);
}

#if SPARLOW_SM90

// Of the first warpgroup, read by the thread that copies.
struct Pace {
  volatile int done;  // stages
  volatile bool over;
};

#define SUMS(t) "+f"(d[t][0]), "+f"(d[t][1]), "+f"(d[t][2]), "+f"(d[t][3])
#define SUMS_8(t) SUMS(t), SUMS(t + 1), SUMS(t + 2), SUMS(t + 3), SUMS(t + 4), SUMS(t + 5), SUMS(t + 6), SUMS(t + 7)
// 2:4 weights in registers: the library has that for up to 64 tokens only.
__device__ __forceinline__ void sparse_from_registers(float (&d)[32][4], const uint4& a, std::uint64_t b,
                                                      std::uint32_t positions) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sp.sync.aligned.m64n256k32.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, {%128, %129, %130, %131}, %132, %133, 0, p, 1, 1, 0; }"
      : SUMS_8(0), SUMS_8(8), SUMS_8(16), SUMS_8(24)
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(positions));
}
#undef SUMS
#undef SUMS_8

// 64 columns of a warpgroup's 64 rows. `held`: weights in registers, where they are there.
template <Weights kWeights>
__device__ __forceinline__ void multiply_stage(float (&sums)[Tile::kTiles][4], const unsigned char* stage, int group,
                                               const uint4 (&held)[kStageProducts<kWeights>]) {
  constexpr int kNextX = kProductColumns<kWeights> * 2 / 16;  // units of 16 bytes
  constexpr int kNextWeights = 2 * Tile::kChunkBytes / 16;
  const std::uint64_t x = swizzled_operand(stage);
  const std::uint64_t weights = blocked_operand(stage + Tile::kXBytes + group * 1024, Tile::kChunkBytes);
  warpgroup_fence();
#pragma unroll
  for (int i = 0; i < kStageProducts<kWeights>; ++i) {
    const std::uint64_t next_x = operand_after(x, kNextX * i);
    if constexpr (kWeights == Weights::sparse_shared)
      warpgroup_sparse<Bf16, 0>(sums, operand_after(weights, kNextWeights * i), next_x, kPositions);
    else if constexpr (kWeights == Weights::sparse_registers) sparse_from_registers(sums, held[i], next_x, kPositions);
    else warpgroup_dense<Bf16>(sums, held[i], next_x);
  }
  warpgroup_commit();
}

template <Weights kWeights>
__device__ __forceinline__ void multiply(const unsigned char* ring, int group, Pace& pace, Counts* counts) {
  const bool first = threadIdx.x == 0;
  uint4 held[kStageProducts<kWeights>];
#pragma unroll
  for (int i = 0; i < kStageProducts<kWeights>; ++i)
    held[i] = reinterpret_cast<const uint4*>(ring)[256 * i + threadIdx.x];
  float sums[Tile::kTiles][4] = {};
  const long long begin = clock64();
  for (int i = 0; i < kProducts / kStageProducts<kWeights>; ++i) {
    pin(sums);
    multiply_stage<kWeights>(sums, ring + i % kStages * Tile::kStageBytes, group, held);
    warpgroup_wait_until<1>();
    pin(sums);
    if (first) pace.done = i;
  }
  warpgroup_wait();
  pin(sums);
  const long long cycles = clock64() - begin;
  for (const uint4& operand : held) keep_until_here(operand);
  float sum = 0;
  for (int t = 0; t < Tile::kTiles; ++t)
    for (int i = 0; i < 4; ++i) sum += sums[t][i];
  if (sum == 12345) counts->unused = sum;
  if (first) pace.over = true;
  if (first && blockIdx.x == 0) counts->product_cycles = cycles;
}

// By one thread: as many stages as are multiplied. A copy waits for the one before it in its place, not for products.
__device__ __forceinline__ void copy(unsigned char* ring, Barrier* arrived, const Copies& copies, const Pace& pace,
                                     Counts* counts) {
  const long long begin = clock64();
  const auto wait_for = [&](int n) { barrier_wait(arrived + n % kStages, n / kStages & 1); };
  int n = 0;
  for (; !pace.over; ++n) {
    if (n >= kStages) wait_for(n - kStages);
    while (n >= pace.done + kLead && !pace.over) {
    }
    const int piece = ((copies.same ? 0 : 37 * blockIdx.x) + n) % kPieces;
    barrier_expect(arrived + n % kStages, copies.bytes);
    bulk_copy(ring + n % kStages * Tile::kStageBytes, copies.source + piece * kPieceBytes, copies.bytes,
              arrived + n % kStages);
  }
  for (int last = max(n - kStages, 0); last < n; ++last) wait_for(last);  // no block ends under its copies
  if (blockIdx.x == 0) counts->copy_cycles = clock64() - begin, counts->copies = n;
}

#endif  // SPARLOW_SM90

template <Weights kWeights>
__global__ void __launch_bounds__(Tile::kThreads, 1) power_kernel(const Copies copies, Counts* counts) {
#if SPARLOW_SM90
  extern __shared__ unsigned char raw[];
  __shared__ Barrier arrived[kStages];
  __shared__ Pace pace;
  unsigned char* ring = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const int group = threadIdx.x / 128;
  for (int i = threadIdx.x; i < kStages * Tile::kStageBytes / 4; i += Tile::kThreads)
    reinterpret_cast<std::uint32_t*>(ring)[i] = noise((blockIdx.x + 1ull) << 32 | i);
  if (threadIdx.x == 0) {
    for (Barrier& barrier : arrived) barrier_init(&barrier, 1);
    barrier_init_done();
    pace.done = 0, pace.over = false;
  }
  __syncthreads();
  if (group == 2) {
    fewer_registers<72>();
    if (threadIdx.x == 256 && copies.bytes > 0) copy(ring, arrived, copies, pace, counts);
  } else {
    more_registers<216>();
    multiply<kWeights>(ring, group, pace, counts);
  }
#endif
}

// The last of some launches.
template <Weights kWeights>
float milliseconds(const Copies& copies, int multiprocessors, Counts* counts) {
  const auto kernel = power_kernel<kWeights>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  for (int left = 8; left > 0; --left) {
    if (left == 1) CHECK(cudaEventRecord(start));
    kernel<<<multiprocessors, Tile::kThreads, kSharedBytes>>>(copies, counts);
    CHECK(cudaGetLastError());
  }
  CHECK(cudaEventRecord(stop));
  CHECK(cudaDeviceSynchronize());
  float ms = 0;
  CHECK(cudaEventElapsedTime(&ms, start, stop));
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  return ms;
}

template <Weights kWeights>
void row(int round, const Copies& copies, int multiprocessors, Counts* counts) {
  constexpr const char* names[] = {"2:4 shared", "2:4 registers", "dense registers"};
  CHECK(cudaMemset(counts, 0, sizeof(Counts)));
  const double ms = milliseconds<kWeights>(copies, multiprocessors, counts);
  Counts c;
  CHECK(cudaMemcpy(&c, counts, sizeof c, cudaMemcpyDeviceToHost));
  constexpr double products = 2. * kProducts;  // of a block
  const double operations = products * multiprocessors * 2 * 64 * Tile::kTokens * kProductColumns<kWeights>;
  std::printf("%d,%s,%d,%s,%.1f,%.1f,%.3f,%.2f,%.0f\n", round, names[static_cast<int>(kWeights)], copies.bytes,
              copies.same ? "same" : "own", c.copy_cycles ? 1. * c.copies * copies.bytes / c.copy_cycles : 0,
              c.product_cycles / products, c.product_cycles / (ms * 1e6), ms, operations / ms * 1e-9);
  std::fflush(stdout);
}

}  // namespace

int main() {
  cudaDeviceProp p;
  CHECK(cudaGetDeviceProperties(&p, 0));
  constexpr std::size_t source_n = std::size_t(kPieces) * kPieceBytes / 4;
  auto* source = device<std::uint32_t>(source_n);
  fill_noise<<<1024, 256>>>(source, source_n);
  CHECK(cudaDeviceSynchronize());
  auto* counts = device<Counts>(1);
  std::printf("round,weights,bytes a stage,source,bytes a clock,cycles a product,GHz,ms,TF eff\n");
  for (int round = 0; round < 2; ++round) {
    const auto shared = [&](int bytes, bool same) {
      const Copies copies{reinterpret_cast<unsigned char*>(source), bytes, same};
      row<Weights::sparse_shared>(round, copies, p.multiProcessorCount, counts);
    };
    shared(0, false);
    row<Weights::sparse_registers>(round, {}, p.multiProcessorCount, counts);
    row<Weights::dense_registers>(round, {}, p.multiProcessorCount, counts);
    shared(Tile::kStageBytes, false), shared(Tile::kStageBytes, true);
    shared(Tile::kStageBytes - Tile::kXBytes / 2, false);  // half of x: as for blocks that share it
    shared(Tile::kWeightBytes, false);                     // no x
  }
}
