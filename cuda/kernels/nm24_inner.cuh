// The blocks that compute t = x vᵀ. Eight of them share the columns of a unit, so that the little there is to read
// comes at once although all other blocks ask for memory too. Who uses t adds the shares up, in a fixed order, and
// takes t as a sum of two 16-bit numbers, so that the second product loses nothing to its rounding.
#pragma once

#include "nm24_args.cuh"

namespace sparlow::kernels {

constexpr int kShareStride = kRankBlock + 4;  // of 16 ranks in shared memory: lanes of a quad fall into other banks

// Eight consecutive elements of a row of x, zero outside.
__device__ __forceinline__ uint4 load_eight(const ForwardArgs& a, int token, int col) {
  if (token >= a.tokens || col >= a.d_in) return make_uint4(0, 0, 0, 0);
  const auto* row = static_cast<const std::uint16_t*>(a.x) + static_cast<std::size_t>(token) * a.d_in + col;
  if (a.wide_x) return __ldcg(reinterpret_cast<const uint4*>(row));
  const auto* halves = reinterpret_cast<const uint2*>(row);
  const uint2 first = __ldcg(halves), second = col + 4 < a.d_in ? __ldcg(halves + 1) : make_uint2(0, 0);
  return make_uint4(first.x, first.y, second.x, second.y);
}

// d += v x of 32 columns, of which a lane has eight: of ranks g (upper) and g + 8 (lower) and of token g.
template <typename T>
__device__ __forceinline__ void multiply_step(float (&d)[4], const uint4& upper, const uint4& lower, const uint4& x) {
  mma_dense<T>(d, make_uint4(upper.x, lower.x, upper.y, lower.y), x.x, x.y);
  mma_dense<T>(d, make_uint4(upper.z, lower.z, upper.w, lower.w), x.z, x.w);
}

// This warp's share of the columns: every kWarps-th step from `begin` on.
template <typename T, int kTiles, int kWarps>
__device__ __forceinline__ void multiply_v(float (&acc)[kTiles][4], const ForwardArgs& a, const uint4* v, int begin,
                                           int end, int first_token, int lane) {
  constexpr int kAtOnce = kTiles <= 2 ? 4 : 2;  // steps loaded before the first is used
  for (int s = begin; s < end; s += kAtOnce * kWarps) {
    uint4 rows[kAtOnce][2] = {}, x[kAtOnce][kTiles] = {};
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int step = s + n * kWarps;
      if (step >= end) break;
      rows[n][0] = __ldg(v + step * 64), rows[n][1] = __ldg(v + step * 64 + 8);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        x[n][t] = load_eight(a, first_token + 8 * t + lane / 4, step * kStep + 8 * (lane % 4));
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n)
#pragma unroll
      for (int t = 0; t < kTiles; ++t) multiply_step<T>(acc[t], rows[n][0], rows[n][1], x[n][t]);
  }
}

template <typename T>
__device__ __forceinline__ std::uint32_t pack(T first, T second) {
  T both[2] = {first, second};
  return *reinterpret_cast<const std::uint32_t*>(both);
}
// What 16 bits leave of a value; nothing of one that overflows.
template <typename T>
__device__ __forceinline__ T remainder_of(float value, T high) {
  const float rest = value - to_float(high);
  return from_float<T>(isfinite(rest) ? rest : 0.f);
}

// Ranks 2 q, 2 q + 1, 2 q + 8, 2 q + 9 of token g as operand B of u t: the high parts, then the low parts.
template <typename T>
__device__ __forceinline__ uint4 operand_of(const float4& t) {
  const T x = from_float<T>(t.x), y = from_float<T>(t.y), z = from_float<T>(t.z), w = from_float<T>(t.w);
  return make_uint4(pack(x, y), pack(z, w), pack(remainder_of(t.x, x), remainder_of(t.y, y)),
                    pack(remainder_of(t.z, z), remainder_of(t.w, w)));
}
__device__ __forceinline__ void add_share(float4& sum, const uint2& first, const uint2& second) {
  sum.x += __uint_as_float(first.x), sum.y += __uint_as_float(first.y);
  sum.z += __uint_as_float(second.x), sum.w += __uint_as_float(second.y);
}

// Sum of shares first_share.. of one lane of a tile; `from` is that lane's first mailbox of share 0.
template <int kTiles, int kShares>
__device__ __forceinline__ void add_shares(float4& sum, const Mailbox* from, int first_share, unsigned stamp) {
  uint2 found[2 * kShares];  // a lane's two mailboxes of a share are 32 apart
  const Mailbox* box = from + first_share * (kTiles * 64);
  for (;;) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < 2 * kShares; ++i) all = take(found[i], box + i / 2 * (kTiles * 64) + i % 2 * 32, stamp) && all;
    if (all) break;
    __nanosleep(64);
  }
#pragma unroll
  for (int s = 0; s < kShares; ++s) add_share(sum, found[2 * s], found[2 * s + 1]);
}

// Block `index` of those before first_block; its first kWarps warps multiply. `shared` has 8 kTiles * kShareStride
// floats for each. kSumHere: the block of the last share adds up, for users that want t_sums.
template <typename T, int kTiles, int kWarps, bool kSumHere>
__device__ __forceinline__ void inner_block(const ForwardArgs& a, int index, unsigned char* shared) {
  constexpr int kTokens = 8 * kTiles;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split = index % kInnerSplits, unit = index / kInnerSplits;
  const int rank_tiles = a.parts * a.rank_steps, rank_tile = unit % rank_tiles, first_tile = unit / rank_tiles * kTiles;
  const int steps = a.column_blocks * (kColumnBlock / kStep);
  auto* sums = reinterpret_cast<float*>(shared);
  wait_for_previous_kernel();
  const unsigned stamp = stamp_of(a);
  if (warp < kWarps) {
    float acc[kTiles][4] = {};
    multiply_v<T, kTiles, kWarps>(acc, a, a.v + static_cast<std::size_t>(rank_tile) * steps * 64 + v_unit(lane),
                                  steps * split / kInnerSplits + warp, steps * (split + 1) / kInnerSplits,
                                  8 * first_tile, lane);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums[(warp * kTokens + 8 * t + lane % 4 * 2 + i % 2) * kShareStride + lane / 4 + i / 2 * 8] = acc[t][i];
  }
  __syncthreads();
  Mailbox* shares = a.t_shares + static_cast<std::size_t>(unit) * (kInnerSplits * kTiles * 64);
  for (int e = threadIdx.x; e < kTiles * 32; e += blockDim.x) {
    const int tile = e / 32, token = e / 4, rank = e % 4 * 2;
    float4 sum{};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* from = sums + (w * kTokens + token) * kShareStride + rank;
      sum.x += from[0], sum.y += from[1], sum.z += from[8], sum.w += from[9];
    }
    Mailbox* lane_of_share_0 = shares + tile * 64 + e % 32;
    if (!kSumHere || split + 1 < kInnerSplits) {
      Mailbox* box = lane_of_share_0 + split * (kTiles * 64);
      post(box, __float_as_uint(sum.x), __float_as_uint(sum.y), stamp);
      post(box + 32, __float_as_uint(sum.z), __float_as_uint(sum.w), stamp);
    } else {
      add_shares<kTiles, kInnerSplits - 1>(sum, lane_of_share_0, 0, stamp);
      const uint4 operand = operand_of<T>(sum);
      Mailbox* box =
          a.sums_of(first_tile / a.group_tiles, rank_tile) + (first_tile % a.group_tiles + tile) * 64 + e % 32;
      post(box, operand.x, operand.y, stamp);
      post(box + 32, operand.z, operand.w, stamp);
    }
  }
}

}  // namespace sparlow::kernels
