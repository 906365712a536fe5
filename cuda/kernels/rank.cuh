// Ranks of entries by magnitude.
#pragma once

#include <cuda_runtime.h>

namespace sparlow::cuda::kernels {

// |x| as a whole number of the same order. NaN ranks first: it stays, and the finite check of the result names it.
__device__ inline unsigned rank_value(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// An entry stays when fewer than two of the four beat it; of equal entries the lower index wins.
__device__ inline uchar4 two_of_four(float4 x) {
  const unsigned a = rank_value(x.x), b = rank_value(x.y), c = rank_value(x.z), d = rank_value(x.w);
  const int ba = b > a, ca = c > a, da = d > a, cb = c > b, db = d > b, dc = d > c;
  return make_uchar4(ba + ca + da < 2, 1 - ba + cb + db < 2, 2 - ca - cb + dc < 2, 3 - da - db - dc < 2);
}

}  // namespace sparlow::cuda::kernels
