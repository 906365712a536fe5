// Warpgroup-wide dense products (sm_90a) with both operands in shared memory: d[64 x 8 kTiles] += a[64 x 16] b. The
// warps wait for nothing but the sums, so that one warpgroup keeps the matrix units busy.
#pragma once

#include "nm24_warpgroup.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// Blocks of 8 rows x 8 columns, 128 bytes each (PTX: core matrices, no swizzle, K-major): those of the next rows
// follow, those of the next columns are `stride` bytes away.
__device__ __forceinline__ std::uint64_t blocked_operand(const void* shared, unsigned stride) {
  return static_cast<std::uint64_t>((shared_address(shared) & 0x3ffff) >> 4) |
         static_cast<std::uint64_t>(stride >> 4) << 16 | 8ull << 32;
}
// The same so many units of 16 bytes further on: an address never leaves the lower half of what describes an operand.
__device__ __forceinline__ std::uint64_t advance(std::uint64_t operand, unsigned units) {
  return (operand & ~0xffffffffull) | (static_cast<std::uint32_t>(operand) + units);
}

#define SPARLOW_SUMS_4(t) "+f"(d[t][0]), "+f"(d[t][1]), "+f"(d[t][2]), "+f"(d[t][3])
#define SPARLOW_SUMS_16(t) SPARLOW_SUMS_4(t), SPARLOW_SUMS_4(t + 1), SPARLOW_SUMS_4(t + 2), SPARLOW_SUMS_4(t + 3)
#define SPARLOW_SUMS_64(t) SPARLOW_SUMS_16(t), SPARLOW_SUMS_16(t + 4), SPARLOW_SUMS_16(t + 8), SPARLOW_SUMS_16(t + 12)

#define SPARLOW_D_64                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SPARLOW_D_128                                                                  \
  SPARLOW_D_64                                                                         \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPARLOW_D_192                                                                  \
  SPARLOW_D_128                                                                        \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SPARLOW_D_256                                                                              \
  SPARLOW_D_192                                                                                    \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define SPARLOW_DENSE_128(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " {" SPARLOW_D_128 "}, %64, %65, p, 1, 1, 0, 0; }"                                                \
               : SPARLOW_SUMS_64(0)                                                                              \
               : "l"(a), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[16][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_128("bf16");
  else SPARLOW_DENSE_128("f16");
}
#define SPARLOW_DENSE_192(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type \
               " {" SPARLOW_D_192 "}, %96, %97, p, 1, 1, 0, 0; }"                                                \
               : SPARLOW_SUMS_64(0), SPARLOW_SUMS_16(16), SPARLOW_SUMS_16(20)                                    \
               : "l"(a), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[24][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_192("bf16");
  else SPARLOW_DENSE_192("f16");
}
#define SPARLOW_DENSE_256(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type \
               " {" SPARLOW_D_256 "}, %128, %129, p, 1, 1, 0, 0; }"                                              \
               : SPARLOW_SUMS_64(0), SPARLOW_SUMS_64(16)                                                         \
               : "l"(a), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[32][4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_256("bf16");
  else SPARLOW_DENSE_256("f16");
}
#undef SPARLOW_DENSE_128
#undef SPARLOW_DENSE_192
#undef SPARLOW_DENSE_256
#undef SPARLOW_D_64
#undef SPARLOW_D_128
#undef SPARLOW_D_192
#undef SPARLOW_D_256
#undef SPARLOW_SUMS_4
#undef SPARLOW_SUMS_16
#undef SPARLOW_SUMS_64

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
