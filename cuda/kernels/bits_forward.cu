#include <algorithm>
#include <limits>

#include "bits.hpp"
#include "bits_decode.cuh"
#include "bits_tables.cuh"
#include "nm24_launch.cuh"

namespace sparlow::kernels {
namespace {

// The kernel of nm24_decode.cuh computes t in the same way, and has the same mailboxes.
Nm24Workspace mail_of(const BitsShape& shape, int tokens) {
  Nm24Shape plain{};
  plain.d_in = shape.d_in, plain.rank = shape.rank, plain.rows[0] = shape.d_out;
  Nm24Plan plan{};
  plan.kernel = Nm24Kernel::decode, plan.token_tiles = tokens <= 8 ? 1 : 2;
  return nm24_workspace(plain, plan, tokens);
}

BitsArgs make_args(const BitsShape& shape, const BitsCall& call) {
  BitsArgs b{};
  ForwardArgs& a = b.common;
  const BitsPacked& from = call.packed;
  a.weights = static_cast<const uint4*>(from.blocks), a.u = static_cast<const uint4*>(from.u);
  a.v = static_cast<const uint4*>(from.v), a.bias = call.bias, a.x = call.x, a.y = call.y;
  const Nm24Workspace offset = mail_of(shape, call.tokens);
  auto* workspace = static_cast<unsigned char*>(call.workspace);
  a.progress = reinterpret_cast<Progress*>(workspace);
  a.t_shares = reinterpret_cast<Mailbox*>(workspace + offset.shares);
  a.d_out = shape.d_out, a.d_in = shape.d_in, a.tokens = call.tokens;
  a.group_tiles = call.tokens <= 8 ? 1 : 2, a.splits = 1, a.parts = 1;
  a.column_blocks = blocks(shape.d_in, kColumnBlock), a.rank_steps = blocks(shape.rank, kRankBlock);
  for (int& end : a.part_end) end = std::numeric_limits<int>::max();
  a.wide_x = shape.d_in % 8 == 0 && reinterpret_cast<std::uintptr_t>(call.x) % 16 == 0;
  b.offsets = from.offsets, b.sign_v = static_cast<const uint4*>(from.sign_v), b.sign_u = from.sign_u;
  b.sign_rank = shape.sign_rank;
  b.block_rows = blocks(shape.d_out, rows_of_block(shape)), b.block_capacity = block_capacity(shape);
  return b;
}

template <typename T, bool kBitmap, int kRowTiles, int kTiles, int kWarps, int kStages, int kSigns>
cudaError_t launch_bits(BitsArgs b, cudaStream_t stream) {
  ForwardArgs& a = b.common;

  const int groups = blocks(a.tokens, 8 * kTiles), row_blocks = blocks(a.d_out, kRowTiles * kTileRows) * groups;
  a.first_block = a.rank_steps * groups * kInnerSplits;
  a.t_users = row_blocks * std::min(kWarps, a.rank_steps);
  const int shared = kWarps * bits_warp_bytes<kBitmap, kRowTiles, kTiles, kStages>(b.block_capacity, a.tokens);
  return launch(bits_kernel<T, kBitmap, kRowTiles, kTiles, kWarps, kStages, kSigns>, a.first_block + row_blocks,
                kWarps * 32, shared, 1, false, stream, b);
}

constexpr int kMostCapacity = 4096;  // of 16 warps with two tiles of a bitmap each; one of 1920 values

// Four warps and one stage fit the shared memory of every device. A large one is better used for more warps, above all
// by bitmaps, and by nm24 where every row block has a multiprocessor to itself. Measured: bench/ladders/bits.
template <typename T, bool kBitmap, int kTiles, int kSigns>
cudaError_t launch_best(const BitsArgs& b, const Nm24Device& device, cudaStream_t stream) {
  constexpr bool kManySums = !kBitmap && kTiles > 1 && kSigns > 1;  // their registers leave room for eight warps
  const bool fits = !kBitmap || b.block_capacity <= kMostCapacity;
  const bool large = (device.arch / 10 == 9 || device.arch / 10 == 10) && fits;
  if (!large) return launch_bits<T, kBitmap, kBitmap ? 1 : 2, kTiles, 4, 1, kSigns>(b, stream);
  if constexpr (kBitmap) {  // one tile of rows keeps more warps under way, two read x half as often
    const bool one_wave = blocks(b.common.d_out, kRowBlock) <= device.multiprocessors && kSigns == 0;
    return kTiles == 1 && b.common.tokens <= 4 && !one_wave ? launch_bits<T, true, 1, 1, 16, 1, kSigns>(b, stream)
                                                            : launch_bits<T, true, 2, kTiles, 16, 1, kSigns>(b, stream);
  } else if (kManySums || blocks(b.common.d_out, kRowBlock) > device.multiprocessors)
    return launch_bits<T, false, 2, kTiles, 8, 1, kSigns>(b, stream);
  else return launch_bits<T, false, 2, kTiles, kManySums ? 8 : 16, 1, kSigns>(b, stream);
}

template <typename T, bool kBitmap, int kSigns>
cudaError_t forward(const BitsArgs& b, const Nm24Device& device, cudaStream_t stream) {
  return b.common.group_tiles == 1 ? launch_best<T, kBitmap, 1, kSigns>(b, device, stream)
                                   : launch_best<T, kBitmap, 2, kSigns>(b, device, stream);
}

template <typename T>
cudaError_t forward(const BitsArgs& b, bool bitmap, const Nm24Device& device, cudaStream_t stream) {
  if (b.sign_rank > kMostSignRanks) return cudaErrorInvalidValue;
  if (b.sign_rank == 0) return bitmap ? forward<T, true, 0>(b, device, stream) : cudaErrorInvalidValue;
  if (b.sign_rank == 1)
    return bitmap ? forward<T, true, 1>(b, device, stream) : forward<T, false, 1>(b, device, stream);
  return bitmap ? forward<T, true, kMostSignRanks>(b, device, stream)
                : forward<T, false, kMostSignRanks>(b, device, stream);
}

}  // namespace

std::size_t bits_workspace_bytes(const BitsShape& shape, int tokens) { return mail_of(shape, tokens).end; }

cudaError_t bits_forward(const BitsShape& shape, const BitsCall& call, const Nm24Device& device, cudaStream_t stream) {
  const BitsArgs b = make_args(shape, call);
  return call.type == Half::bfloat16 ? forward<__nv_bfloat16>(b, shape.bitmap, device, stream)
                                     : forward<__half>(b, shape.bitmap, device, stream);
}

}  // namespace sparlow::kernels
