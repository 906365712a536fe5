#include <algorithm>
#include <limits>
#include <utility>

#include "nm24.hpp"
#include "nm24_decode.cuh"
#include "nm24_launch.cuh"
#include "nm24_many.hpp"
#include "nm24_plan.hpp"
#include "nm24_wide.cuh"

namespace sparlow::kernels {
namespace {

ForwardArgs make_args(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call) {
  ForwardArgs a{};
  a.weights = static_cast<const uint4*>(call.weights), a.u = static_cast<const uint4*>(call.u);
  a.v = static_cast<const uint4*>(call.v), a.bias = call.bias, a.x = call.x, a.y = call.y;
  const Nm24Workspace offset = nm24_workspace(shape, plan, call.tokens);
  auto* workspace = static_cast<unsigned char*>(call.workspace);
  a.progress = reinterpret_cast<Progress*>(workspace);
  a.t_shares = reinterpret_cast<Mailbox*>(workspace + offset.shares);
  a.t_sums = reinterpret_cast<Mailbox*>(workspace + offset.sums);
  a.d_out = shape.d_out(), a.d_in = shape.d_in, a.tokens = call.tokens;
  a.group_tiles = plan.token_tiles, a.splits = plan.splits;
  a.column_blocks = blocks(shape.d_in, kColumnBlock), a.rank_steps = blocks(shape.rank, kRankBlock);
  a.parts = shape.parts;
  int rows = 0;
  for (int p = 0; p < kMaxParts - 1; ++p) {
    rows += shape.rows[p];
    a.part_end[p] = p + 1 < shape.parts ? rows / kRowBlock : std::numeric_limits<int>::max();
  }
  a.wide_x = shape.d_in % 8 == 0 && reinterpret_cast<std::uintptr_t>(call.x) % 16 == 0;
  return a;
}

// Blocks that compute t: for each step of ranks and each `tiles` tiles of whole groups, as users wait for whole groups.
void set_blocks(ForwardArgs& a, int tiles, int row_blocks, int users_per_block) {
  const int units = a.parts * a.rank_steps * blocks(a.tokens, 8 * a.group_tiles) * (a.group_tiles / tiles);
  a.first_block = units * kInnerSplits;
  a.t_users = row_blocks * users_per_block;
}

template <typename T, int kConfig>
cudaError_t launch_decode(ForwardArgs a, bool overlap, cudaStream_t stream) {
  constexpr DecodeConfig config = kDecodeConfigs[kConfig];
  const int row_blocks = blocks(a.d_out, kRowBlock) * blocks(a.tokens, 8 * config.token_tiles);
  set_blocks(a, config.token_tiles, row_blocks, std::min(config.warps, a.rank_steps));
  const int shared = config.warps * decode_warp_bytes<config.token_tiles, config.stages>(a.tokens);
  return launch(decode_kernel<T, config.token_tiles, config.warps, config.stages>, a.first_block + row_blocks,
                config.warps * 32, shared, 1, overlap, stream, a);
}

template <typename T, int kConfig>
cudaError_t launch_wide(ForwardArgs a, bool overlap, cudaStream_t stream) {
  using Shape =
      WideShape<kWideConfigs[kConfig].token_tiles, kWideConfigs[kConfig].groups, kWideConfigs[kConfig].stages>;
  const int row_blocks = a.splits * blocks(a.d_out, Shape::kRows) * blocks(a.tokens, Shape::kTokens);
  set_blocks(a, Shape::kInnerTiles, row_blocks, 1);
  a.x_rows = std::min(a.tokens, Shape::kTokens);  // tensor copies are slow where a box leaves the matrix
  CUtensorMap map;
  const cudaError_t status = map_rows<T>(a.x, a.d_in, a.tokens, a.x_rows, map);
  if (status != cudaSuccess) return status;
  return launch(wide_kernel<T, Shape>, a.first_block + row_blocks, Shape::kThreads, Shape::kSharedBytes, a.splits,
                overlap, stream, a, map);
}

// The configuration the plan names, among all that are compiled.
template <typename T, int... kDecode, int... kWide>
cudaError_t forward(const Nm24Plan& plan, const ForwardArgs& a, bool overlap, cudaStream_t stream,
                    std::integer_sequence<int, kDecode...>, std::integer_sequence<int, kWide...>) {
  cudaError_t status = cudaErrorInvalidValue;
  if (plan.kernel == Nm24Kernel::decode)
    static_cast<void>(
        ((plan.variant == kDecode && (status = launch_decode<T, kDecode>(a, overlap, stream), true)) || ...));
  else
    static_cast<void>(((plan.variant == kWide && (status = launch_wide<T, kWide>(a, overlap, stream), true)) || ...));
  return status;
}

template <typename T>
cudaError_t forward(const Nm24Plan& plan, const ForwardArgs& a, bool overlap, cudaStream_t stream) {
  return forward<T>(plan, a, overlap, stream, std::make_integer_sequence<int, kDecodeConfigCount>(),
                    std::make_integer_sequence<int, kWideConfigCount>());
}

}  // namespace

cudaError_t nm24_forward(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream) {
  if (plan.kernel == Nm24Kernel::many) return nm24_forward_many(shape, plan, call, stream);
  const ForwardArgs a = make_args(shape, plan, call);
  return call.type == Half::bfloat16 ? forward<__nv_bfloat16>(plan, a, call.overlap, stream)
                                     : forward<__half>(plan, a, call.overlap, stream);
}

}  // namespace sparlow::kernels
