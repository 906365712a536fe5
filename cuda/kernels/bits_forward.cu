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
  b.sign_rank = shape.sign_rank, b.block_capacity = block_capacity(shape);
  return b;
}

template <typename T, bool kBitmap, int kTiles, int kWarps, int kStages, int kSigns, int kResident = 1>
cudaError_t launch_bits(BitsArgs b, int multiprocessors, cudaStream_t stream) {
  ForwardArgs& a = b.common;
  const int groups = blocks(a.tokens, 8 * kTiles);
  const int row_blocks = blocks(a.d_out, kRowTiles<kBitmap> * kTileRows) * groups;
  b.t_units = a.rank_steps * groups * kInnerSplits;
  a.first_block = t_blocks(b.t_units, row_blocks, kResident * multiprocessors);
  a.t_users = row_blocks * std::min(kWarps, a.rank_steps);
  const int shared = kWarps * bits_warp_bytes<kBitmap, kTiles, kStages>(b.block_capacity, a.tokens);
  return launch(bits_kernel<T, kBitmap, kTiles, kWarps, kStages, kSigns, kResident>, a.first_block + row_blocks,
                kWarps * 32, shared, 1, false, stream, b);
}

// One stage a warp: other warps work while it waits. Row blocks should all be under way at once, each with as many
// warps as there is room for; where not even those of four warps fit, blocks come one after the other anyway. Signs
// want registers more than warps. Measured: bench/ladders/bits.
template <typename T, int kTiles, int kSigns>
cudaError_t launch_bitmap(const BitsArgs& b, int multiprocessors, cudaStream_t stream) {
  const int row_blocks = blocks(b.common.d_out, kTileRows) * blocks(b.common.tokens, 8 * kTiles);
  const int each = blocks(row_blocks, multiprocessors);  // of a multiprocessor
  if constexpr (kSigns > 1) {
    return launch_bits<T, true, kTiles, 16, 1, kSigns>(b, multiprocessors, stream);
  } else if constexpr (kTiles > 1) {
    return kSigns == 0 && each > 3 && each <= 8
               ? launch_bits<T, true, kTiles, 4, 1, 0, 8>(b, multiprocessors, stream)
               : launch_bits<T, true, kTiles, 8, 1, kSigns, 3>(b, multiprocessors, stream);
  } else {
    constexpr int kMost = kSigns ? 3 : 4;  // blocks of eight warps
    if (each > kMost && each <= 7) return launch_bits<T, true, 1, 4, 1, kSigns, 7>(b, multiprocessors, stream);
    if (each > 2 && (each <= kMost || kSigns))
      return launch_bits<T, true, 1, 8, 1, kSigns, kMost>(b, multiprocessors, stream);
    return launch_bits<T, true, 1, 16, 1, kSigns, 2>(b, multiprocessors, stream);
  }
}

// nm24 fills the memory's queues with eight warps, and with sixteen where a row block has a multiprocessor to itself.
template <typename T, int kTiles, int kSigns>
cudaError_t launch_nm24(const BitsArgs& b, int multiprocessors, cudaStream_t stream) {
  constexpr int kMostWarps = kTiles > 1 && kSigns > 1 ? 8 : 16;  // many sums leave registers for eight
  return blocks(b.common.d_out, kRowBlock) > multiprocessors
             ? launch_bits<T, false, kTiles, 8, 1, kSigns>(b, 0, stream)
             : launch_bits<T, false, kTiles, kMostWarps, 1, kSigns>(b, 0, stream);
}

// Four warps and one stage fit the shared memory of every device.
template <typename T, bool kBitmap, int kTiles, int kSigns>
cudaError_t launch_best(const BitsArgs& b, const Nm24Device& device, cudaStream_t stream) {
  if (device.arch / 10 != 9 && device.arch / 10 != 10)
    return launch_bits<T, kBitmap, kTiles, 4, 1, kSigns>(b, 0, stream);
  if constexpr (kBitmap) return launch_bitmap<T, kTiles, kSigns>(b, device.multiprocessors, stream);
  else return launch_nm24<T, kTiles, kSigns>(b, device.multiprocessors, stream);
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
