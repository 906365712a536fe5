#include <algorithm>
#include <limits>
#include <utility>

#include "nm24_launch.cuh"
#include "nm24_many.cuh"
#include "nm24_many.hpp"
#include "nm24_many_t.cuh"

namespace sparlow::kernels {
namespace {

constexpr int kInnerTiles = 2;

template <typename T, int kTokenWarps>
cudaError_t launch_inner(const ManyInnerArgs& a, int stages, bool overlap, cudaStream_t stream) {
  const auto kernel = many_inner_kernel<T, kInnerTiles, kTokenWarps>;
  const dim3 grid(kManyInnerSplits, blocks(a.tokens, ManyInnerShape<kInnerTiles, kTokenWarps>::kTokens), stages);
  return launch(kernel, grid, kManyInnerWarps * 32, 0, kManyInnerSplits, overlap, stream, a);
}

template <typename T, int kTokens>
cudaError_t launch_beside(const ManyInnerArgs& inner, int tiles, int stages, int splits, bool overlap,
                          cudaStream_t stream) {
  const TArgs a{inner, splits, std::min(inner.tokens, kTokens), tiles, std::min(tiles, kRankTiles)};
  TMaps maps;
  const cudaError_t status = map_t<T, TShape<kTokens>>(a, maps);
  if (status != cudaSuccess) return status;
  const int cluster = std::max(splits, 2), grid = blocks(blocks(inner.tokens, kTokens) * splits, cluster) * cluster;
  return launch(many_t_kernel<T, kTokens>, dim3(grid, stages), TShape<kTokens>::kThreads, TShape<kTokens>::kSharedBytes,
                cluster, overlap, stream, a, maps);
}

template <typename T>
cudaError_t inner(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream) {
  ManyInnerArgs a{};
  a.v = static_cast<const uint4*>(call.v), a.x = call.x, a.t = call.scratch;
  a.d_in = shape.d_in, a.tokens = call.tokens;
  a.steps = blocks(shape.d_in, kColumnBlock) * (kColumnBlock / kStep);
  a.rank_steps = blocks(shape.rank, kRankBlock), a.stages_per_part = blocks(shape.rank, kRankStage);
  a.t_columns = shape.parts * many_t_columns(shape);
  const int stages = shape.parts * a.stages_per_part;
  if (plan.t_splits > 0) {
    const auto beside = plan.t_tokens == 128   ? launch_beside<T, 128>
                        : plan.t_tokens == 192 ? launch_beside<T, 192>
                        : plan.t_tokens == 256 ? launch_beside<T, 256>
                                               : nullptr;
    if (!beside) return cudaErrorInvalidValue;
    return beside(a, shape.parts * a.rank_steps, stages, plan.t_splits, call.overlap, stream);
  }
  // The more tokens a block has, the less often v is read; the fewer, the more blocks there are.
  return call.tokens <= 512 ? launch_inner<T, 1>(a, stages, call.overlap, stream)
                            : launch_inner<T, 2>(a, stages, call.overlap, stream);
}

ManyArgs make_args(const Nm24Shape& shape, const Nm24Call& call) {
  ManyArgs a{};
  a.bias = call.bias, a.y = call.y, a.d_out = shape.d_out(), a.tokens = call.tokens;
  a.columns = blocks(shape.d_in, kManyColumns), a.rank_steps = blocks(shape.rank, kRankBlock);
  a.t_columns = many_t_columns(shape);
  int rows = 0;
  for (int p = 0; p < kMaxParts - 1; ++p) {
    rows += shape.rows[p];
    a.part_end[p] = p + 1 < shape.parts ? rows / kRowBlock : std::numeric_limits<int>::max();
  }
  return a;
}

template <typename T, typename Shape>
constexpr auto kernel_of() {
  if constexpr (Shape::kSmall) return many_small_kernel<T, Shape>;
  else return many_kernel<T, Shape>;
}

// The rows of one launch.
struct Rows {
  int variant, first, count;  // in tiles of kManyRows
  int clusters, late;
  bool rest_follows, is_rest;
};

// Values so that a box has all row groups of 8 for the same columns one after the other: lines of 8 rows x 16 bytes,
// by row group of a tile, tile, row block, and 16-byte columns of all blocks in a row.
template <typename T>
cudaError_t map_values(const void* weights, int row_blocks, int column_blocks, int box_row_blocks, CUtensorMap& map) {
  constexpr int kTileBytes = kValueUnits * 16 / 2, kPair = 2 * kLine;
  const auto row_bytes = static_cast<cuuint64_t>(column_blocks) * kBlockBytes;
  return map_boxes<T>({weights,
                       5,
                       {kLine / 2, 2, 2, static_cast<cuuint64_t>(row_blocks), row_bytes / kPair},
                       {kLine, kTileBytes, row_bytes, kPair},
                       {kLine / 2, 2, 2, static_cast<cuuint32_t>(box_row_blocks), 4},
                       CU_TENSOR_MAP_SWIZZLE_NONE},
                      map);
}

template <typename T, typename Shape>
cudaError_t map_packed(const Nm24Shape& shape, const Nm24Call& call, ManyMaps& maps) {
  const int rows = blocks(shape.d_out(), kRowBlock), columns = blocks(shape.d_in, kColumnBlock);
  cudaError_t status = map_values<T>(call.weights, rows, columns, Shape::kRowBlocks, maps.values);
  if (status == cudaSuccess)
    status = map_lines<T>(call.weights, columns * kBlockLines, rows, 2, Shape::kRowBlocks, maps.positions);
  maps.u = maps.positions;
  if (status == cudaSuccess && shape.rank > 0)
    status = map_lines<T>(call.u, blocks(shape.rank, kRankBlock) * kRankStepLines, rows,
                          kRankStageSteps * kRankStepLines, Shape::kRowBlocks, maps.u);
  return status;
}

template <typename T, int kConfig>
cudaError_t outer(const Nm24Shape& shape, const Rows& rows, const Nm24Call& call, cudaStream_t stream) {
  constexpr ManyConfig config = kManyConfigs[kConfig];
  using Shape = ManyShape<config.tokens, config.cluster, config.splits, config.stages, config.step>;
  ManyArgs a = make_args(shape, call);
  ManyMaps maps;
  // Tensor copies are slow where a box leaves the matrix.
  const int share = config.cluster == 1 ? call.tokens : blocks(blocks(call.tokens, config.cluster), 8) * 8;
  a.x_rows = std::min(config.tokens / config.cluster, share);
  cudaError_t status = map_rows<T>(call.x, shape.d_in, call.tokens, a.x_rows, maps.x);
  maps.t = maps.x;
  if (status == cudaSuccess && shape.rank > 0)
    status = map_rows<T>(call.scratch, shape.parts * a.t_columns, call.tokens, a.x_rows, maps.t);
  if (status == cudaSuccess) status = map_packed<T, Shape>(shape, call, maps);
  if (status != cudaSuccess) return status;
  a.first_row_tile = rows.first, a.row_tiles = rows.count;
  a.rest_follows = rows.rest_follows, a.is_rest = rows.is_rest;
  a.tiles = blocks(rows.count, config.cluster) * blocks(a.tokens, config.tokens);
  const int clusters = rows.clusters > 0 ? std::min(rows.clusters, a.tiles) : a.tiles;
  a.late = clusters < a.tiles ? rows.late : 0;
  const bool overlap = shape.rank > 0 || rows.is_rest || call.overlap;
  return launch(kernel_of<T, Shape>(), dim3(clusters * config.cluster * config.splits), Shape::kThreads,
                Shape::kSharedBytes, config.cluster * config.splits, overlap, stream, a, maps);
}

template <typename T, int... kConfig>
cudaError_t outer_of(const Nm24Shape& shape, const Rows& rows, const Nm24Call& call, cudaStream_t stream,
                     std::integer_sequence<int, kConfig...>) {
  cudaError_t status = cudaErrorInvalidValue;
  static_cast<void>(
      ((rows.variant == kConfig && (status = outer<T, kConfig>(shape, rows, call, stream), true)) || ...));
  return status;
}

template <typename T>
cudaError_t forward(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream) {
  constexpr auto configs = std::make_integer_sequence<int, kManyConfigCount>();
  cudaError_t status = shape.rank > 0 ? inner<T>(shape, plan, call, stream) : cudaSuccess;
  const int all = blocks(shape.d_out(), kManyRows), head = plan.head_tiles > 0 ? plan.head_tiles : all;
  const Rows first{plan.variant, 0, head, plan.clusters, plan.late, head < all, false};
  const Rows rest{plan.rest_variant, head, all - head, 0, 0, false, true};
  if (status == cudaSuccess) status = outer_of<T>(shape, first, call, stream, configs);
  if (status == cudaSuccess && head < all) status = outer_of<T>(shape, rest, call, stream, configs);
  return status;
}

}  // namespace

cudaError_t nm24_forward_many(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream) {
  return call.type == Half::bfloat16 ? forward<__nv_bfloat16>(shape, plan, call, stream)
                                     : forward<__half>(shape, plan, call, stream);
}

}  // namespace sparlow::kernels
