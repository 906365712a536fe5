// Two of four by rank: an entry stays when fewer than two beat it; of equal entries the lower index wins.
#pragma once

#include <cuda_runtime.h>

namespace sparlow::cuda::kernels {

__device__ inline uchar4 two_of_four(float4 x) {
  const float a = fabsf(x.x), b = fabsf(x.y), c = fabsf(x.z), d = fabsf(x.w);
  const int ba = b > a, ca = c > a, da = d > a, cb = c > b, db = d > b, dc = d > c;
  return make_uchar4(ba + ca + da < 2, 1 - ba + cb + db < 2, 2 - ca - cb + dc < 2, 3 - da - db - dc < 2);
}

}  // namespace sparlow::cuda::kernels
