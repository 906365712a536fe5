// Warpgroup-wide products for many tokens (sm_90a): d[64 x 8 kTiles] += a b with b in shared memory as in
// nm24_warpgroup.cuh and a 2:4 (b of 32 columns) in shared memory too, or dense (b of 16) in registers.
#pragma once

#include "nm24_warpgroup_shared.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// All but the last kPending groups of products are done.
template <int kPending>
__device__ __forceinline__ void warpgroup_wait_until() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define SPARLOW_SUMS_4(t) "+f"(d[t][0]), "+f"(d[t][1]), "+f"(d[t][2]), "+f"(d[t][3])
#define SPARLOW_SUMS_16(t) SPARLOW_SUMS_4(t), SPARLOW_SUMS_4(t + 1), SPARLOW_SUMS_4(t + 2), SPARLOW_SUMS_4(t + 3)
#define SPARLOW_SUMS_64(t) SPARLOW_SUMS_16(t), SPARLOW_SUMS_16(t + 4), SPARLOW_SUMS_16(t + 8), SPARLOW_SUMS_16(t + 12)

#define SPARLOW_D_128                                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPARLOW_SPARSE_128(type)                                                                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sp.sync.aligned.m64n128k32.f32." type "." type \
               " {" SPARLOW_D_128 "}, %64, %65, %66, %67, p, 1, 1, 0, 0; }"                                         \
               : SPARLOW_SUMS_64(0)                                                                                 \
               : "l"(a), "l"(b), "r"(positions), "n"(kSelector))
template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[16][4], std::uint64_t a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_SPARSE_128("bf16");
  else SPARLOW_SPARSE_128("f16");
}
#define SPARLOW_DENSE_128(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " {" SPARLOW_D_128 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0; }"                                  \
               : SPARLOW_SUMS_64(0)                                                                              \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[16][4], const uint4& a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_128("bf16");
  else SPARLOW_DENSE_128("f16");
}
#undef SPARLOW_SPARSE_128
#undef SPARLOW_DENSE_128
#undef SPARLOW_D_128

#define SPARLOW_D_256                                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SPARLOW_SPARSE_256(type)                                                                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sp.sync.aligned.m64n256k32.f32." type "." type \
               " {" SPARLOW_D_256 "}, %128, %129, %130, %131, p, 1, 1, 0, 0; }"                                     \
               : SPARLOW_SUMS_64(0), SPARLOW_SUMS_64(16)                                                            \
               : "l"(a), "l"(b), "r"(positions), "n"(kSelector))
template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[32][4], std::uint64_t a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_SPARSE_256("bf16");
  else SPARLOW_SPARSE_256("f16");
}
#define SPARLOW_DENSE_256(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type \
               " {" SPARLOW_D_256 "}, {%128, %129, %130, %131}, %132, p, 1, 1, 0; }"                             \
               : SPARLOW_SUMS_64(0), SPARLOW_SUMS_64(16)                                                         \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[32][4], const uint4& a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_256("bf16");
  else SPARLOW_DENSE_256("f16");
}
#undef SPARLOW_SPARSE_256
#undef SPARLOW_DENSE_256
#undef SPARLOW_D_256

#define SPARLOW_D_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SPARLOW_DENSE_32(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type \
               " {" SPARLOW_D_32 "}, {%16, %17, %18, %19}, %20, p, 1, 1, 0; }"                                  \
               : SPARLOW_SUMS_16(0)                                                                             \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[4][4], const uint4& a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_32("bf16");
  else SPARLOW_DENSE_32("f16");
}
#undef SPARLOW_DENSE_32
#undef SPARLOW_D_32

#define SPARLOW_D_48                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23"
#define SPARLOW_DENSE_48(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n48k16.f32." type "." type \
               " {" SPARLOW_D_48 "}, {%24, %25, %26, %27}, %28, p, 1, 1, 0; }"                                  \
               : SPARLOW_SUMS_16(0), SPARLOW_SUMS_4(4), SPARLOW_SUMS_4(5)                                       \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[6][4], const uint4& a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_48("bf16");
  else SPARLOW_DENSE_48("f16");
}
#undef SPARLOW_DENSE_48
#undef SPARLOW_D_48

#define SPARLOW_D_64                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SPARLOW_SPARSE_64(type)                                                                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sp.sync.aligned.m64n64k32.f32." type "." type \
               " {" SPARLOW_D_64 "}, %32, %33, %34, %35, p, 1, 1, 0, 0; }"                                         \
               : SPARLOW_SUMS_16(0), SPARLOW_SUMS_16(4)                                                            \
               : "l"(a), "l"(b), "r"(positions), "n"(kSelector))
template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[8][4], std::uint64_t a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_SPARSE_64("bf16");
  else SPARLOW_SPARSE_64("f16");
}
#define SPARLOW_DENSE_64(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
               " {" SPARLOW_D_64 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0; }"                                  \
               : SPARLOW_SUMS_16(0), SPARLOW_SUMS_16(4)                                                         \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[8][4], const uint4& a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_64("bf16");
  else SPARLOW_DENSE_64("f16");
}
#undef SPARLOW_SPARSE_64
#undef SPARLOW_DENSE_64
#undef SPARLOW_D_64

#define SPARLOW_D_96                                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SPARLOW_SPARSE_96(type)                                                                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sp.sync.aligned.m64n96k32.f32." type "." type \
               " {" SPARLOW_D_96 "}, %48, %49, %50, %51, p, 1, 1, 0, 0; }"                                         \
               : SPARLOW_SUMS_16(0), SPARLOW_SUMS_16(4), SPARLOW_SUMS_16(8)                                        \
               : "l"(a), "l"(b), "r"(positions), "n"(kSelector))
template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[12][4], std::uint64_t a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_SPARSE_96("bf16");
  else SPARLOW_SPARSE_96("f16");
}
#define SPARLOW_DENSE_96(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type \
               " {" SPARLOW_D_96 "}, {%48, %49, %50, %51}, %52, p, 1, 1, 0; }"                                  \
               : SPARLOW_SUMS_16(0), SPARLOW_SUMS_16(4), SPARLOW_SUMS_16(8)                                     \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[12][4], const uint4& a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_96("bf16");
  else SPARLOW_DENSE_96("f16");
}
#undef SPARLOW_SPARSE_96
#undef SPARLOW_DENSE_96
#undef SPARLOW_D_96

#define SPARLOW_D_192                                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SPARLOW_SPARSE_192(type)                                                                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sp.sync.aligned.m64n192k32.f32." type "." type \
               " {" SPARLOW_D_192 "}, %96, %97, %98, %99, p, 1, 1, 0, 0; }"                                         \
               : SPARLOW_SUMS_64(0), SPARLOW_SUMS_16(16), SPARLOW_SUMS_16(20)                                       \
               : "l"(a), "l"(b), "r"(positions), "n"(kSelector))
template <typename T, int kSelector>
__device__ __forceinline__ void warpgroup_sparse(float (&d)[24][4], std::uint64_t a, std::uint64_t b,
                                                 std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_SPARSE_192("bf16");
  else SPARLOW_SPARSE_192("f16");
}
#define SPARLOW_DENSE_192(type)                                                                                  \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type \
               " {" SPARLOW_D_192 "}, {%96, %97, %98, %99}, %100, p, 1, 1, 0; }"                                 \
               : SPARLOW_SUMS_64(0), SPARLOW_SUMS_16(16), SPARLOW_SUMS_16(20)                                    \
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b))
template <typename T>
__device__ __forceinline__ void warpgroup_dense(float (&d)[24][4], const uint4& a, std::uint64_t b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) SPARLOW_DENSE_192("bf16");
  else SPARLOW_DENSE_192("f16");
}
#undef SPARLOW_SPARSE_192
#undef SPARLOW_DENSE_192
#undef SPARLOW_D_192

#undef SPARLOW_SUMS_4
#undef SPARLOW_SUMS_16
#undef SPARLOW_SUMS_64

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
