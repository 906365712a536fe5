// Warpgroup-wide products for many tokens (sm_90a): d[64 x 8 kTiles] += a b with b in shared memory as in
// nm24_warpgroup.cuh. a: 2:4 (b of 32 columns) or dense (b of 16) in shared memory, so that no warp waits for the
// matrix units with its operands; or dense in registers.
#pragma once

#include "nm24_warpgroup.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

// All but the last kPending groups of products are done.
template <int kPending>
__device__ __forceinline__ void warpgroup_wait_until() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Blocks of 8 rows x 8 columns, 128 bytes each (PTX: core matrices, no swizzle, K-major): those of the next rows
// follow, those of the next columns are `stride` bytes away.
__device__ __forceinline__ std::uint64_t blocked_operand(const void* shared, unsigned stride) {
  return static_cast<std::uint64_t>((shared_address(shared) & 0x3ffff) >> 4) |
         static_cast<std::uint64_t>(stride >> 4) << 16 | 8ull << 32;
}
// The same so many units of 16 bytes further on: an address never leaves the lower half of what describes an operand.
__device__ __forceinline__ std::uint64_t operand_after(std::uint64_t operand, unsigned units) {
  return (operand & ~0xffffffffull) | (static_cast<std::uint32_t>(operand) + units);
}

// Sums of tiles t.. and their places among the operands of an instruction, for 64 to 256 tokens.
#define SPARLOW_SUMS(t) "+f"(d[t][0]), "+f"(d[t][1]), "+f"(d[t][2]), "+f"(d[t][3])
#define SPARLOW_SUMS_4(t) SPARLOW_SUMS(t), SPARLOW_SUMS(t + 1), SPARLOW_SUMS(t + 2), SPARLOW_SUMS(t + 3)
#define SPARLOW_SUMS_8(t) SPARLOW_SUMS_4(t), SPARLOW_SUMS_4(t + 4)
#define SPARLOW_SUMS_64 SPARLOW_SUMS_8(0)
#define SPARLOW_SUMS_96 SPARLOW_SUMS_64, SPARLOW_SUMS_4(8)
#define SPARLOW_SUMS_128 SPARLOW_SUMS_64, SPARLOW_SUMS_8(8)
#define SPARLOW_SUMS_192 SPARLOW_SUMS_128, SPARLOW_SUMS_8(16)
#define SPARLOW_SUMS_256 SPARLOW_SUMS_192, SPARLOW_SUMS_8(24)
#define SPARLOW_PLACES_64                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SPARLOW_PLACES_96 \
  SPARLOW_PLACES_64       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SPARLOW_PLACES_128                                                           \
  SPARLOW_PLACES_64                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPARLOW_PLACES_192                                                           \
  SPARLOW_PLACES_128                                                                 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SPARLOW_PLACES_256                                                                       \
  SPARLOW_PLACES_192                                                                             \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define SPARLOW_PRODUCT(kind, n, k, type, operands, ...)                                                               \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async" kind ".sync.aligned.m64n" #n "k" #k ".f32." type \
               "." type " {" SPARLOW_PLACES_##n "}, " operands "; }"                                                   \
               : SPARLOW_SUMS_##n                                                                                      \
               : __VA_ARGS__)

// i, j, ...: places of the operands after the sums.
#define SPARLOW_PRODUCTS(n, i, j, k, l, m)                                                                            \
  template <typename T, int kSelector>                                                                                \
  __device__ __forceinline__ void warpgroup_sparse(float (&d)[n / 8][4], std::uint64_t a, std::uint64_t b,            \
                                                   std::uint32_t positions) {                                         \
    if constexpr (std::is_same_v<T, __nv_bfloat16>)                                                                   \
      SPARLOW_PRODUCT(".sp", n, 32, "bf16", i ", " j ", " k ", " l ", p, 1, 1, 0, 0", "l"(a), "l"(b), "r"(positions), \
                      "n"(kSelector));                                                                                \
    else                                                                                                              \
      SPARLOW_PRODUCT(".sp", n, 32, "f16", i ", " j ", " k ", " l ", p, 1, 1, 0, 0", "l"(a), "l"(b), "r"(positions),  \
                      "n"(kSelector));                                                                                \
  }                                                                                                                   \
  template <typename T>                                                                                               \
  __device__ __forceinline__ void warpgroup_dense(float (&d)[n / 8][4], std::uint64_t a, std::uint64_t b) {           \
    if constexpr (std::is_same_v<T, __nv_bfloat16>)                                                                   \
      SPARLOW_PRODUCT("", n, 16, "bf16", i ", " j ", p, 1, 1, 0, 0", "l"(a), "l"(b));                                 \
    else SPARLOW_PRODUCT("", n, 16, "f16", i ", " j ", p, 1, 1, 0, 0", "l"(a), "l"(b));                               \
  }                                                                                                                   \
  template <typename T>                                                                                               \
  __device__ __forceinline__ void warpgroup_dense(float (&d)[n / 8][4], const uint4& a, std::uint64_t b) {            \
    if constexpr (std::is_same_v<T, __nv_bfloat16>)                                                                   \
      SPARLOW_PRODUCT("", n, 16, "bf16", "{" i ", " j ", " k ", " l "}, " m ", p, 1, 1, 0", "r"(a.x), "r"(a.y),       \
                      "r"(a.z), "r"(a.w), "l"(b));                                                                    \
    else                                                                                                              \
      SPARLOW_PRODUCT("", n, 16, "f16", "{" i ", " j ", " k ", " l "}, " m ", p, 1, 1, 0", "r"(a.x), "r"(a.y),        \
                      "r"(a.z), "r"(a.w), "l"(b));                                                                    \
  }
SPARLOW_PRODUCTS(64, "%32", "%33", "%34", "%35", "%36")
SPARLOW_PRODUCTS(96, "%48", "%49", "%50", "%51", "%52")
SPARLOW_PRODUCTS(128, "%64", "%65", "%66", "%67", "%68")
SPARLOW_PRODUCTS(192, "%96", "%97", "%98", "%99", "%100")
SPARLOW_PRODUCTS(256, "%128", "%129", "%130", "%131", "%132")
#undef SPARLOW_SUMS
#undef SPARLOW_SUMS_4
#undef SPARLOW_SUMS_8
#undef SPARLOW_SUMS_64
#undef SPARLOW_SUMS_96
#undef SPARLOW_SUMS_128
#undef SPARLOW_SUMS_192
#undef SPARLOW_SUMS_256
#undef SPARLOW_PLACES_64
#undef SPARLOW_PLACES_96
#undef SPARLOW_PLACES_128
#undef SPARLOW_PLACES_192
#undef SPARLOW_PLACES_256
#undef SPARLOW_PRODUCT
#undef SPARLOW_PRODUCTS

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
