#include <limits>
#include <utility>

#include "nm24_launch.cuh"
#include "nm24_many.cuh"
#include "nm24_many.hpp"

namespace sparlow::kernels {
namespace {

template <typename T, int kTiles, int kTokenWarps>
cudaError_t launch_inner(const ManyInnerArgs& a, int stages, bool overlap, cudaStream_t stream) {
  const dim3 grid(kManyInnerSplits, blocks(a.tokens, ManyInnerShape<kTiles, kTokenWarps>::kTokens), stages);
  return launch(many_inner_kernel<T, kTiles, kTokenWarps>, grid, kManyInnerWarps * 32, 0, kManyInnerSplits, overlap,
                stream, a);
}

template <typename T>
cudaError_t inner(const Nm24Shape& shape, const Nm24Call& call, cudaStream_t stream) {
  ManyInnerArgs a{};
  a.v = static_cast<const uint4*>(call.v), a.x = call.x, a.t = call.scratch;
  a.d_in = shape.d_in, a.tokens = call.tokens;
  a.steps = blocks(shape.d_in, kColumnBlock) * (kColumnBlock / kStep);
  a.rank_steps = blocks(shape.rank, kRankBlock), a.stages_per_part = blocks(shape.rank, kRankStage);
  a.t_columns = shape.parts * many_t_columns(shape);
  const int stages = shape.parts * a.stages_per_part;
  // The more tokens a block has, the less often v is read; the fewer, the more blocks there are.
  if (call.tokens <= 512) return launch_inner<T, 2, 1>(a, stages, call.overlap, stream);
  return launch_inner<T, 2, 2>(a, stages, call.overlap, stream);
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
cudaError_t outer(const Nm24Shape& shape, const Nm24Call& call, cudaStream_t stream) {
  constexpr ManyConfig config = kManyConfigs[kConfig];
  using Shape = ManyShape<config.tokens, config.cluster, config.splits, config.x_stages, config.weight_stages>;
  const ManyArgs a = make_args(shape, call);
  CUtensorMap x_map, t_map;
  constexpr int kBox = config.tokens / config.cluster;
  cudaError_t status = map_rows<T>(call.x, shape.d_in, call.tokens, kBox, x_map);
  t_map = x_map;
  if (status == cudaSuccess && shape.rank > 0)
    status = map_rows<T>(call.scratch, shape.parts * a.t_columns, call.tokens, kBox, t_map);
  if (status != cudaSuccess) return status;
  const int row_blocks = blocks(blocks(a.d_out, kManyRows), config.cluster) * config.cluster;
  return launch(kernel_of<T, Shape>(), dim3(row_blocks * config.splits * blocks(a.tokens, config.tokens)),
                Shape::kThreads, Shape::kSharedBytes, config.cluster * config.splits, shape.rank > 0 || call.overlap,
                stream, a, x_map, t_map);
}

template <typename T, int... kConfig>
cudaError_t forward(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream,
                    std::integer_sequence<int, kConfig...>) {
  cudaError_t status = shape.rank > 0 ? inner<T>(shape, call, stream) : cudaSuccess;
  if (status != cudaSuccess) return status;
  status = cudaErrorInvalidValue;
  static_cast<void>(((plan.variant == kConfig && (status = outer<T, kConfig>(shape, call, stream), true)) || ...));
  return status;
}

}  // namespace

cudaError_t nm24_forward_many(const Nm24Shape& shape, const Nm24Plan& plan, const Nm24Call& call, cudaStream_t stream) {
  constexpr auto configs = std::make_integer_sequence<int, kManyConfigCount>();
  return call.type == Half::bfloat16 ? forward<__nv_bfloat16>(shape, plan, call, stream, configs)
                                     : forward<__half>(shape, plan, call, stream, configs);
}

}  // namespace sparlow::kernels
