// Warpgroup-wide sparse products (sm_90a): d[64 x 8 kTiles] += a[64 x 32, 2:4] b[32 x 8 kTiles]. a lies in registers as
// for mma.sp, warp w of the four has rows 16 w .. 16 w + 15; b lies in shared memory, swizzled in rows of 128 bytes.
#pragma once

#include "nm24_device.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// Rows of 128 bytes along the columns, 128-byte swizzle, groups of 8 rows 1024 bytes apart.
__device__ __forceinline__ std::uint64_t swizzled_operand(const void* shared) {
  return static_cast<std::uint64_t>((shared_address(shared) & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

__device__ __forceinline__ void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// Keeps the compiler from moving sums across the asynchronous products.
template <int kTiles>
__device__ __forceinline__ void pin(float (&d)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < 4 * kTiles; ++i) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}

// Products read operands in registers while they run, and the compiler takes such registers for others as soon as the
// products are started: call this with them once the products are waited for.
__device__ __forceinline__ void keep_until_here(const uint4& operand) {
  asm volatile("" ::"r"(operand.x), "r"(operand.y), "r"(operand.z), "r"(operand.w));
}
__device__ __forceinline__ void keep_until_here(std::uint32_t positions) { asm volatile("" ::"r"(positions)); }
__device__ __forceinline__ void keep_until_here(const uint2& positions) {
  asm volatile("" ::"r"(positions.x), "r"(positions.y));
}

#define SPARLOW_WGMMA_8(type)                                       \
  asm volatile(                                                     \
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; "                       \
      "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32." type "." type \
      " {"                                                          \
      "%0, %1, %2, %3"                                              \
      "}, {%4, %5, %6, %7}, %8, %9, %10, p, 1, 1, 0; }"             \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3])  \
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(positions), "n"(kSelector))

template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[1][4], const uint4& a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_WGMMA_8("bf16");
  else SPARLOW_WGMMA_8("f16");
}
#undef SPARLOW_WGMMA_8

#define SPARLOW_WGMMA_16(type)                                                                                   \
  asm volatile(                                                                                                  \
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; "                                                                    \
      "wgmma.mma_async.sp.sync.aligned.m64n16k32.f32." type "." type                                             \
      " {"                                                                                                       \
      "%0, %1, %2, %3, %4, %5, %6, %7"                                                                           \
      "}, {%8, %9, %10, %11}, %12, %13, %14, p, 1, 1, 0; }"                                                      \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), \
        "+f"(d[1][3])                                                                                            \
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(positions), "n"(kSelector))

template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[2][4], const uint4& a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_WGMMA_16("bf16");
  else SPARLOW_WGMMA_16("f16");
}
#undef SPARLOW_WGMMA_16

#define SPARLOW_WGMMA_32(type)                                                                                   \
  asm volatile(                                                                                                  \
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; "                                                                    \
      "wgmma.mma_async.sp.sync.aligned.m64n32k32.f32." type "." type                                             \
      " {"                                                                                                       \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"                                     \
      "}, {%16, %17, %18, %19}, %20, %21, %22, p, 1, 1, 0; }"                                                    \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), \
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), \
        "+f"(d[3][2]), "+f"(d[3][3])                                                                             \
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(positions), "n"(kSelector))

template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[4][4], const uint4& a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_WGMMA_32("bf16");
  else SPARLOW_WGMMA_32("f16");
}
#undef SPARLOW_WGMMA_32

#define SPARLOW_WGMMA_64(type)                                                                                   \
  asm volatile(                                                                                                  \
      "{ .reg .pred p; setp.ne.b32 p, 1, 0; "                                                                    \
      "wgmma.mma_async.sp.sync.aligned.m64n64k32.f32." type "." type                                             \
      " {"                                                                                                       \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                   \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                           \
      "}, {%32, %33, %34, %35}, %36, %37, %38, p, 1, 1, 0; }"                                                    \
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), \
        "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), \
        "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), \
        "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), \
        "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])                                               \
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"(positions), "n"(kSelector))

template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[8][4], const uint4& a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_WGMMA_64("bf16");
  else SPARLOW_WGMMA_64("f16");
}
#undef SPARLOW_WGMMA_64

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
