// Single instructions the 2:4 kernels are made of. What exists only from sm_90 on does nothing before it.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sparlow::kernels {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SPARLOW_SM90 1
#else
#define SPARLOW_SM90 0
#endif

// d += a b; a is a sparse 16 x 32 operand (selector: which lanes of a quad hold its positions), b is 32 x 8.
template <typename T, int kSelector>
__device__ __forceinline__ void mma_sparse(float (&d)[4], const uint4& a, const uint4& b, std::uint32_t positions) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(positions),
          "n"(kSelector));
  else
    asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(positions),
          "n"(kSelector));
}

// d += a b; dense 16 x 16 and 16 x 8.
template <typename T>
__device__ __forceinline__ void mma_dense(float (&d)[4], const uint4& a, std::uint32_t b0, std::uint32_t b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(x);
  else return __float2half_rn(x);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

// A launch may begin before the kernel ahead of it has ended (programmatic dependent launch).
__device__ __forceinline__ void allow_next_kernel() {
#if SPARLOW_SM90
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Everything older kernels wrote is visible afterwards. Only weights may be read before.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if SPARLOW_SM90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// Four 8 x 8 matrices from shared memory: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ uint4 load_matrices(const void* address) {
  uint4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "r"(shared_address(address))
               : "memory");
  return r;
}

// Asynchronous copies of a piece of 16 or 8 bytes; what lies past `bytes` becomes zero.
__device__ __forceinline__ void copy_16(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void copy_8(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(bytes)
               : "memory");
}

using Barrier = std::uint64_t;

__device__ __forceinline__ void barrier_init(Barrier* b, unsigned arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// The calling thread arrives once its copies of pieces so far are there.
__device__ __forceinline__ void barrier_arrive_after_copies(Barrier* b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ bool barrier_done(Barrier* b, unsigned parity) {
  unsigned done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
#if SPARLOW_SM90
      "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n"
#else
      "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
#endif
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(shared_address(b)), "r"(parity)
      : "memory");
  return done;
}
__device__ __forceinline__ void barrier_wait(Barrier* b, unsigned parity) {
  while (!barrier_done(b, parity)) {
  }
}

#if SPARLOW_SM90

// After the last barrier_init, by the thread that did it, before anybody else uses a barrier.
__device__ __forceinline__ void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Signals that the whole warp came here: one lane does, for all that __syncwarp put before it. compute-sanitizer's
// racecheck does not follow that step and reports the other lanes' reads; built for it, every lane arrives.
#ifdef SPARLOW_RACECHECK
constexpr int kWarpArrivals = 32;
#else
constexpr int kWarpArrivals = 1;
#endif
__device__ __forceinline__ void barrier_arrive_warp(Barrier* b, int lane) {
  __syncwarp();
  if (lane < kWarpArrivals) barrier_arrive(b);
}
__device__ __forceinline__ void barrier_expect(Barrier* b, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}

// Weights are read once: they should leave L2 first.
__device__ __forceinline__ std::uint64_t evict_first() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// One thread copies a contiguous piece of global memory; its bytes count towards `b`.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, unsigned bytes, Barrier* b,
                                          std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(b)), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void bulk_copy(void* shared, const void* global, unsigned bytes, Barrier* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(b))
               : "memory");
}

// One thread copies a box of a matrix; what lies outside the matrix becomes zero and counts as copied.
__device__ __forceinline__ void tensor_copy(void* shared, const CUtensorMap* map, int column, int row, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(b))
      : "memory");
}

// Of lines of packed operands (map_lines): from `line` on, of each row from `row` on.
__device__ __forceinline__ void tensor_copy_lines(void* shared, const CUtensorMap* map, int line, int row, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
          "r"(shared_address(shared)),
      "l"(map), "r"(0), "r"(line), "r"(row), "r"(shared_address(b))
      : "memory");
}
__device__ __forceinline__ void tensor_copy_boxes(void* shared, const CUtensorMap* map, int c0, int c1, int c2, int c3,
                                                  int c4, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(shared_address(shared)),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "r"(shared_address(b))
      : "memory");
}

__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
// Orders nothing but the blocks themselves; the fence of the other takes a microsecond.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

__device__ __forceinline__ std::uint32_t address_in_cluster(const void* local, unsigned rank) {
  std::uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(local)), "r"(rank));
  return remote;
}
// Write to the same variable of another block of the cluster.
__device__ __forceinline__ void store_in_cluster(float* local, unsigned rank, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address_in_cluster(local, rank)), "f"(value) : "memory");
}
__device__ __forceinline__ void store_in_cluster(float4* local, unsigned rank, float4 v) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address_in_cluster(local, rank)), "f"(v.x),
               "f"(v.y), "f"(v.z), "f"(v.w)
               : "memory");
}

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
