// What a lane takes of x and of v of the signs beside a bitmap.
#pragma once

#include "bits_args.cuh"

namespace sparlow::kernels {

// Four elements of a row of x, zero outside.
__device__ __forceinline__ uint2 load_four(const std::uint16_t* row, int col, int d_in) {
  return col < d_in ? *reinterpret_cast<const uint2*>(row + col) : make_uint2(0, 0);
}

// What a lane needs of x for kSteps times 32 columns, through the first-level cache, which all warps share. Of tokens
// that are not there it stays zero.
template <int kTiles, int kSteps>
struct Columns {
  uint4 x[kSteps][kTiles] = {};

  __device__ __forceinline__ void load(const ForwardArgs& a, int column, int first_token, int lane) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int token = first_token + 8 * t + lane / 4;
      if (token >= a.tokens) continue;
      const int first = column + lane % 4 * 8;
      const auto* row = static_cast<const std::uint16_t*>(a.x) + static_cast<std::size_t>(token) * a.d_in;
      if (a.wide_x && column + kSteps * kStep <= a.d_in) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step)
          x[step][t] = *reinterpret_cast<const uint4*>(row + first + step * kStep);
      } else {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const int col = first + step * kStep;
          const uint2 low = load_four(row, col, a.d_in), high = load_four(row, col + 4, a.d_in);
          x[step][t] = make_uint4(low.x, low.y, high.x, high.y);
        }
      }
    }
  }
};

// v of the signs for the same columns of a step.
template <int kSigns>
__device__ __forceinline__ void load_sign_v(uint4 (&v)[kSigns], const BitsArgs& b, int column_block, int step,
                                            int lane) {
  const uint4* from = b.sign_v + static_cast<unsigned>(column_block * b.sign_rank * kSignVUnits + lane % 4);
#pragma unroll
  for (int k = 0; k < kSigns; ++k)
    if (kSigns == 1 || k < b.sign_rank) v[k] = __ldg(from + k * kSignVUnits + step * 4);
}

}  // namespace sparlow::kernels
