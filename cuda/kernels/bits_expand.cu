// Packed blocks back to a dense matrix, for more tokens than the forward kernel is good at.
#include "bits_inner.cuh"
#include "bits_tables.cuh"

namespace sparlow::kernels {
namespace {

struct ExpandArgs {
  PackedBlocks from;
  const std::uint32_t* sign_v;
  const void* sign_u;
  void* w;
  int d_out, d_in, sign_rank;
};

using Tile = std::uint16_t[kRowBlock][kColumnBlock];

// Into the first 16 rows.
__device__ void expand_bitmap(Tile& tile, MaskEntry* entries, const std::uint32_t* masks, int lane) {
  make_entries(entries, reinterpret_cast<const unsigned char*>(masks), 0, lane);
  __syncwarp();
  const auto* values = reinterpret_cast<const std::uint16_t*>(masks + kMaskWords);
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const MaskEntry entry = entries[entry_of(4 * chunk + lane / 8)];
    const int shift = 4 * (lane % 8);
    const std::uint16_t* next = values + entry.values / 2 + __popc(entry.mask & ((1u << shift) - 1));
    for (int e = 0; e < 4; ++e) {
      const Place p = place_in_chunk(chunk, lane, e);
      const bool set = entry.mask >> (shift + e) & 1;
      tile[p.row][p.col] = set ? *next : 0;
      next += set;
    }
  }
}

__device__ void expand_nm24(Tile& tile, const std::uint32_t* words, int lane) {
  const PackedNm24 s{words, kColumnBlock};
  for (int row = 0; row < kRowBlock; ++row) {
    const std::uint32_t pair = s.pair(row, lane), nibble = s.nibble(row, lane);
    *reinterpret_cast<uint2*>(&tile[row][4 * lane]) = make_uint2(0, 0);
    tile[row][4 * lane + (nibble & 3)] = half_of(pair, 0);
    tile[row][4 * lane + (nibble >> 2)] = half_of(pair, 1);
  }
}

// The signed term of four columns of a row.
template <typename T>
__device__ float4 signed_four(const ExpandArgs& a, const std::uint32_t* signs, int row, int col) {
  float sum[4] = {};
  for (int k = 0; k < a.sign_rank; ++k) {
    const float u = to_float(static_cast<const T*>(a.sign_u)[static_cast<std::size_t>(row) * a.sign_rank + k]);
    for (int i = 0; i < 4; ++i) {
      const std::uint16_t bits = half_of(a.sign_v[index_of_sign_v({k, col + i}, a.sign_rank)], i % 2);
      sum[i] += u * to_float(*reinterpret_cast<const T*>(&bits));
    }
  }
  for (int i = 0; i < 4; ++i) {
    const SignBit at = sign_bit({row % kTileRows, col % kColumnBlock + i});
    if (signs[at.word] >> at.bit & 1) sum[i] = -sum[i];
  }
  return make_float4(sum[0], sum[1], sum[2], sum[3]);
}

// One warp a block. d_in is a multiple of four: rows of w start at multiples of 8 bytes.
template <typename T, bool kBitmap>
__global__ void __launch_bounds__(32) expand_kernel(const ExpandArgs a) {
  __shared__ __align__(16) Tile tile;
  __shared__ __align__(16) MaskEntry entries[kMaskWords];
  const int lane = threadIdx.x, block = blockIdx.x;
  const Place origin = a.from.origin(block);
  if constexpr (kBitmap) expand_bitmap(tile, entries, a.from.words(block), lane);
  else expand_nm24(tile, a.from.words(block), lane);
  __syncwarp();
  const int col = origin.col + 4 * lane;
  if (col >= a.d_in) return;
  for (int r = 0; r < min(a.from.rows, a.d_out - origin.row); ++r) {
    const int row = origin.row + r;
    T four[4];
    *reinterpret_cast<uint2*>(four) = *reinterpret_cast<const uint2*>(&tile[r][4 * lane]);
    if (a.sign_rank) {
      const float4 t = signed_four<T>(a, a.from.signs(block, row), row, col);
      four[0] = from_float<T>(to_float(four[0]) + t.x), four[1] = from_float<T>(to_float(four[1]) + t.y);
      four[2] = from_float<T>(to_float(four[2]) + t.z), four[3] = from_float<T>(to_float(four[3]) + t.w);
    }
    auto* to = static_cast<T*>(a.w) + static_cast<std::size_t>(row) * a.d_in + col;
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(four);
  }
}

template <typename T>
void launch_expand(const ExpandArgs& a, bool bitmap, unsigned blocks, cudaStream_t stream) {
  if (bitmap) expand_kernel<T, true><<<blocks, 32, 0, stream>>>(a);
  else expand_kernel<T, false><<<blocks, 32, 0, stream>>>(a);
}

}  // namespace

cudaError_t bits_expand(const BitsShape& shape, const BitsPacked& packed, void* w, Half type, cudaStream_t stream) {
  const unsigned n = block_count(shape);
  const ExpandArgs a{blocks_of(shape, packed),
                     static_cast<const std::uint32_t*>(packed.sign_v),
                     packed.sign_u,
                     w,
                     shape.d_out,
                     shape.d_in,
                     shape.sign_rank};
  if (type == Half::bfloat16) launch_expand<__nv_bfloat16>(a, shape.bitmap, n, stream);
  else launch_expand<__half>(a, shape.bitmap, n, stream);
  return cudaGetLastError();
}

}  // namespace sparlow::kernels
