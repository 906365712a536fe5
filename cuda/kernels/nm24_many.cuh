// y = x sᵀ + t uᵀ + bias for many tokens (sm_90a), bound by the matrix units: a block has 128 rows of y for 64 to 256
// tokens. t = x vᵀ comes from a kernel that runs before (nm24_many_inner.cuh) or beside it (nm24_many_t.cuh).
//
// Two warpgroups multiply, 64 rows each, with weights and x in shared memory; one or three threads fill the ring.
#pragma once

#include "nm24_many_consume.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

template <typename T, typename Shape>
__device__ __forceinline__ void many_block(const ManyArgs& a, const ManyMaps& maps) {
  extern __shared__ unsigned char raw[];
  __shared__ ManyBarriers<Shape> barriers;
  unsigned char* shared = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const ManyRing<Shape> ring{shared, barriers};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / 4;
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  if constexpr (Shape::kCluster > 1)
    cluster_arrive_relaxed(), cluster_wait();  // barriers exist before they are signalled
  ManySchedule<Shape> schedule{a};
  auto* sums = reinterpret_cast<float*>(shared);
  if (group == 2) {
    fewer_registers<Shape::kSmall ? 48 : 72>();
    if constexpr (Shape::kProducers == 1) {
      if (warp == 8 && lane == 0) ManyProducer<Shape, ManyRole::all>{a, maps, ring, schedule}.run();
    } else {
      if (warp == 8 && lane == 0) ManyProducer<Shape, ManyRole::x>{a, maps, ring, schedule}.run();
      if (warp == 9 && lane == 0) ManyProducer<Shape, ManyRole::values>{a, maps, ring, schedule}.run();
      if (warp == 10 && lane == 0) ManyProducer<Shape, ManyRole::positions>{a, maps, ring, schedule}.run();
    }
  } else {
    more_registers<Shape::kSmall ? 168 : 216>();
    ManyConsumer<T, Shape> consumer{a, ring, warp, lane};
    for (ManyWork work; schedule.next(work);) {
      consumer.multiply(work);
      if constexpr (Shape::kSplits == 1) consumer.finish(work, schedule);
    }
    if constexpr (Shape::kSplits > 1) meet(1, 256), stage_split<Shape>(sums, consumer.acc, warp, lane);
  }
  if constexpr (Shape::kSplits > 1) {
    ManyWork work;
    ManySchedule<Shape>{a}.next(work);
    cluster_arrive(), cluster_wait();
    store_split<T, Shape>(sums, a, work, schedule.rank, threadIdx.x);
    cluster_arrive_relaxed(), cluster_wait();  // nobody leaves while its sums are read
  }
  if constexpr (Shape::kCluster > 1) cluster_arrive_relaxed(), cluster_wait();  // the other block may still signal here
}

#endif  // SPARLOW_SM90

template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    many_kernel(const ManyArgs a, const __grid_constant__ ManyMaps maps) {
#if SPARLOW_SM90
  many_block<T, Shape>(a, maps);
#endif
}
template <typename T, typename Shape>
__global__ void __maxnreg__(128) many_small_kernel(const ManyArgs a, const __grid_constant__ ManyMaps maps) {
#if SPARLOW_SM90
  many_block<T, Shape>(a, maps);
#endif
}

}  // namespace sparlow::kernels
