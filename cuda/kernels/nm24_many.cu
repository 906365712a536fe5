#include <algorithm>
#include <limits>
#include <utility>

#include "nm24_launch.cuh"
#include "nm24_many.cuh"
#include "nm24_many.hpp"
#include "nm24_many_t.cuh"

namespace sparlow::kernels {
namespace {

constexpr int kInnerTiles = 2, kTStages = 5;

template <typename T, int kTokenWarps>
cudaError_t launch_inner(const ManyInnerArgs& a, int stages, bool overlap, cudaStream_t stream) {
  const auto kernel = many_inner_kernel<T, kInnerTiles, kTokenWarps>;
  const dim3 grid(kManyInnerSplits, blocks(a.tokens, ManyInnerShape<kInnerTiles, kTokenWarps>::kTokens), stages);
  return launch(kernel, grid, kManyInnerWarps * 32, 0, kManyInnerSplits, overlap, stream, a);
}

template <typename T>
cudaError_t launch_apart(const ManyInnerArgs& inner, int stages, int splits, bool overlap, cudaStream_t stream) {
  using Shape = TShape<kManyTTokens, kTStages>;
  const TArgs a{inner, std::min(inner.tokens, kManyTTokens)};
  CUtensorMap map;
  const cudaError_t status = map_rows<T>(inner.x, inner.d_in, inner.tokens, a.x_rows, map);
  if (status != cudaSuccess) return status;
  return launch(many_t_kernel<T, kManyTTokens, kTStages>, dim3(splits, blocks(inner.tokens, kManyTTokens), stages),
                Shape::kThreads, Shape::kSharedBytes, splits, overlap, stream, a, map);
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
  if (plan.t_splits > 0) return launch_apart<T>(a, stages, plan.t_splits, call.overlap, stream);
  // The more tokens a block has, the less often v is read; the fewer, the more blocks there are.
  return call.tokens <= 512 ? launch_inner<T, 1>(a, stages, call.overlap, stream)
                            : launch_inner<T, 2>(a, stages, call.overlap, stream);
}

ManyArgs make_args(const Nm24Shape& shape, const Nm24Call& call) {
  ManyArgs a{};
  a.weights = static_cast<const uint4*>(call.weights), a.u = static_cast<const uint4*>(call.u);
  a.bias = call.bias, a.y = call.y, a.d_out = shape.d_out(), a.tokens = call.tokens;
  a.column_blocks = blocks(shape.d_in, kColumnBlock), a.rank_steps = blocks(shape.rank, kRankBlock);
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

template <typename T, int kConfig>
cudaError_t outer(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream) {
  constexpr ManyConfig config = kManyConfigs[kConfig];
  using Shape = ManyShape<config.tokens, config.cluster, config.splits, config.x_stages, config.weight_stages>;
  ManyArgs a = make_args(shape, call);
  CUtensorMap x_map, t_map;
  // Tensor copies are slow where a box leaves the matrix.
  const int share = config.cluster == 1 ? call.tokens : blocks(blocks(call.tokens, config.cluster), 8) * 8;
  a.x_rows = std::min(config.tokens / config.cluster, share);
  cudaError_t status = map_rows<T>(call.x, shape.d_in, call.tokens, a.x_rows, x_map);
  t_map = x_map;
  if (status == cudaSuccess && shape.rank > 0)
    status = map_rows<T>(call.scratch, shape.parts * a.t_columns, call.tokens, a.x_rows, t_map);
  if (status != cudaSuccess) return status;
  a.tiles = blocks(blocks(a.d_out, kManyRows), config.cluster) * blocks(a.tokens, config.tokens);
  const int clusters = plan.clusters > 0 ? std::min(plan.clusters, a.tiles) : a.tiles;
  return launch(kernel_of<T, Shape>(), dim3(clusters * config.cluster * config.splits), Shape::kThreads,
                Shape::kSharedBytes, config.cluster * config.splits, shape.rank > 0 || call.overlap, stream, a, x_map,
                t_map);
}

template <typename T, int... kConfig>
cudaError_t forward(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream,
                    std::integer_sequence<int, kConfig...>) {
  cudaError_t status = shape.rank > 0 ? inner<T>(shape, plan, call, stream) : cudaSuccess;
  if (status != cudaSuccess) return status;
  status = cudaErrorInvalidValue;
  static_cast<void>(
      ((plan.variant == kConfig && (status = outer<T, kConfig>(shape, plan, call, stream), true)) || ...));
  return status;
}

}  // namespace

cudaError_t nm24_forward_many(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream) {
  constexpr auto configs = std::make_integer_sequence<int, kManyConfigCount>();
  return call.type == Half::bfloat16 ? forward<__nv_bfloat16>(shape, plan, call, stream, configs)
                                     : forward<__half>(shape, plan, call, stream, configs);
}

}  // namespace sparlow::kernels
