// From sums in registers to y.
#pragma once

#include "nm24_many_work.cuh"
#include "nm24_store.cuh"

namespace sparlow::kernels {

#if SPARLOW_SM90

__device__ __forceinline__ void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// Four 8 x 8 matrices, transposed: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices(void* address, const uint4& r) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(address)),
               "r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w)
               : "memory");
}

// A warpgroup's 64 rows, kStored tiles of 8 tokens at a time through its own shared memory, [token][row], pieces of 16
// bytes swapped so that banks differ: whole lines of y.
template <typename T, typename Shape, int kStored>
struct ManyStore {
  static constexpr int kPiece = kStored * 8;
  const ManyArgs& a;
  unsigned char* shared;
  int warp, lane;
  float bias[2] = {};

  __device__ __forceinline__ void load_bias(int row) {
    if (!a.bias) return;
    for (int i = 0; i < 2; ++i) {
      const int mine = row + warp % 4 * 16 + lane / 4 + 8 * i;
      bias[i] = mine < a.d_out ? to_float(static_cast<const T*>(a.bias)[mine]) : 0.f;
    }
  }
  // Sums of tiles `tile` and `tile` + 1 of the tokens, which are the local-th of a piece.
  __device__ __forceinline__ void stage(const float (&first)[4], const float (&second)[4], int local) const {
    const int token = 8 * (local + lane / 16) + lane % 8, piece = warp % 4 * 2 + lane / 8 % 2;
    uint4 out;
    out.x = pack(from_float<T>(first[0] + bias[0]), from_float<T>(first[1] + bias[0]));
    out.y = pack(from_float<T>(first[2] + bias[1]), from_float<T>(first[3] + bias[1]));
    out.z = pack(from_float<T>(second[0] + bias[0]), from_float<T>(second[1] + bias[0]));
    out.w = pack(from_float<T>(second[2] + bias[1]), from_float<T>(second[3] + bias[1]));
    store_matrices(shared + token * 128 + (piece ^ token % 8) * 16, out);
  }
  // All loads of a round before its stores: else every store would wait for a load of its own.
  __device__ __forceinline__ void store(const ManyWork& work, int row, int first) const {
    constexpr int kAtOnce = 128 / 8, kAll = kPiece / kAtOnce, kRounds = blocks(kAll, 8), kRound = kAll / kRounds;
    static_assert(kRounds * kRound * kAtOnce == kPiece);
    const int thread = warp % 4 * 32 + lane, piece = thread % 8, mine = row + piece * 8;
#pragma unroll 1
    for (int begin = thread / 8; begin < kPiece; begin += kAtOnce * kRound) {
      uint4 sums[kRound];
#pragma unroll
      for (int i = 0; i < kRound; ++i) {
        const int local = begin + kAtOnce * i;
        sums[i] = *reinterpret_cast<const uint4*>(shared + local * 128 + (piece ^ local % 8) * 16);
      }
#pragma unroll
      for (int i = 0; i < kRound; ++i) {
        const int token = work.first_token + first + begin + kAtOnce * i;
        if (token < work.new_tokens || token >= a.tokens) continue;
        T* y = static_cast<T*>(a.y) + static_cast<std::size_t>(token) * a.d_out + mine;
        if (a.d_out % 8 == 0 && mine < a.d_out) *reinterpret_cast<uint4*>(y) = sums[i];
        else
          for (int r = 0; r < 8 && mine + r < a.d_out; ++r) y[r] = reinterpret_cast<const T*>(&sums[i])[r];
      }
    }
  }
  __device__ __forceinline__ void run(const float (&acc)[Shape::kTiles][4], const ManyWork& work) {
    const int row = work.first_row_block * kRowBlock + warp / 4 * 64;
    load_bias(row);
#pragma unroll
    for (int t = 0; t < Shape::kTiles; t += kStored) {
      meet(2 + warp / 4, 128);  // the piece before is read
#pragma unroll
      for (int i = 0; i < kStored; i += 2) stage(acc[t + i], acc[t + i + 1], i);
      meet(2 + warp / 4, 128);
      store(work, row, 8 * t);
    }
  }
};

// Sums of all splits: every block lays its own into shared memory, [token][row], and adds up a share of the tokens.
template <typename Shape>
__device__ __forceinline__ void stage_split(float* sums, const float (&acc)[Shape::kTiles][4], int warp, int lane) {
#pragma unroll
  for (int t = 0; t < Shape::kTiles; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      sums[(8 * t + lane % 4 * 2 + i % 2) * Shape::kSumStride + warp * 16 + lane / 4 + i / 2 * 8] = acc[t][i];
}
template <typename T, typename Shape>
__device__ __forceinline__ void store_split(const float* sums, const ManyArgs& a, const ManyWork& work, int rank,
                                            int thread) {
  constexpr int kQuads = kManyRows / 4, kShare = Shape::kTokens / Shape::kSplits;
  for (int e = thread; e < kShare * kQuads; e += Shape::kThreads) {
    const int local = rank * kShare + e / kQuads, token = work.first_token + local;
    if (token < work.new_tokens || token >= a.tokens) continue;
    const auto* from = reinterpret_cast<const float4*>(sums + local * Shape::kSumStride) + e % kQuads;
    float4 sum{};
#pragma unroll
    for (int s = 0; s < Shape::kSplits; ++s) add(sum, load_in_cluster(from, s));
    store_four<T>(a, token, work.first_row_block * kRowBlock + e % kQuads * 4, sum);
  }
}

#endif  // SPARLOW_SM90

}  // namespace sparlow::kernels
