// Writing y from float sums, bias added. Args has y [tokens, d_out], bias or null, tokens and d_out.
#pragma once

#include "nm24_inner.cuh"

namespace sparlow::kernels {

template <typename T, typename Args>
__device__ __forceinline__ void store_y(const Args& a, int token, int row, float sum) {
  if (token >= a.tokens || row >= a.d_out) return;
  if (a.bias) sum += to_float(static_cast<const T*>(a.bias)[row]);
  static_cast<T*>(a.y)[static_cast<std::size_t>(token) * a.d_out + row] = from_float<T>(sum);
}

// Four rows of y.
template <typename T, typename Args>
__device__ __forceinline__ void store_four(const Args& a, int token, int row, float4 sum) {
  if (a.d_out % 4 || row >= a.d_out) {
    store_y<T>(a, token, row, sum.x), store_y<T>(a, token, row + 1, sum.y);
    store_y<T>(a, token, row + 2, sum.z), store_y<T>(a, token, row + 3, sum.w);
    return;
  }
  if (a.bias) {
    const auto* bias = static_cast<const T*>(a.bias) + row;
    sum.x += to_float(bias[0]), sum.y += to_float(bias[1]), sum.z += to_float(bias[2]), sum.w += to_float(bias[3]);
  }
  const uint2 out =
      make_uint2(pack(from_float<T>(sum.x), from_float<T>(sum.y)), pack(from_float<T>(sum.z), from_float<T>(sum.w)));
  *reinterpret_cast<uint2*>(static_cast<T*>(a.y) + static_cast<std::size_t>(token) * a.d_out + row) = out;
}

__device__ __forceinline__ void add(float4& a, const float4& b) { a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w; }

}  // namespace sparlow::kernels
