// Many tokens: tiles of the shipped kernel against cuBLAS bf16 in the same run.
#include "../../../cuda/kernels/nm24_many.cuh"
#include "harness.cuh"

using namespace ladder;

namespace {

CUtensorMap map_of(const void* data, int columns, int rows, int box) {
  ForwardArgs a{};
  a.x = data, a.d_in = columns, a.tokens = rows;
  return map_of_x(a, box);
}

struct Problem {
  Layer& layer;
  Bf16 *x, *y, *t;
  int tokens, rank;
};

template <typename Shape>
void many(const Problem& p, int copy, cudaStream_t stream) {
  ManyArgs a{};
  a.weights = reinterpret_cast<const uint4*>(p.layer.weights + copy * p.layer.weight_n);
  a.u = reinterpret_cast<const uint4*>(p.layer.u + copy * p.layer.u_n);
  a.y = p.y, a.d_out = p.layer.d_out, a.tokens = p.tokens;
  a.column_blocks = blocks(p.layer.d_in, kColumnBlock), a.rank_steps = blocks(p.rank, kRankBlock);
  a.t_columns = 2 * 64 * blocks(p.rank, 64);
  for (int& end : a.part_end) end = 1 << 30;
  if (p.rank) {
    const bool large = p.tokens >= 1024;
    const int stages = blocks(p.rank, 64), splits = kManyInnerSplits;
    const ManyInnerArgs inner{reinterpret_cast<const uint4*>(p.layer.v + copy * p.layer.v_n),
                              p.x,
                              p.t,
                              p.layer.d_in,
                              p.tokens,
                              a.column_blocks * 4,
                              a.rank_steps,
                              stages,
                              a.t_columns};
    const dim3 grid(splits, blocks(p.tokens, large ? 128 : 64), stages);
    if (large) launch(many_inner_kernel<Bf16, 2>, grid, 256, 0, splits, false, stream, inner);
    else launch(many_inner_kernel<Bf16, 1>, grid, 256, 0, splits, false, stream, inner);
  }
  const CUtensorMap x_map = map_of(p.x, p.layer.d_in, p.tokens, Shape::kTokens / Shape::kCluster);
  const CUtensorMap t_map = map_of(p.t, std::max(128, a.t_columns), p.tokens, Shape::kTokens / Shape::kCluster);
  const int rows = blocks(blocks(p.layer.d_out, kManyRows), Shape::kCluster) * Shape::kCluster;
  CHECK(
      cudaFuncSetAttribute(many_kernel<Bf16, Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  launch(many_kernel<Bf16, Shape>, dim3(rows * blocks(p.tokens, Shape::kTokens)), Shape::kThreads, Shape::kSharedBytes,
         Shape::kCluster, p.rank > 0, stream, a, x_map, t_map);
}

template <typename Shape>
void report(const char* name, const Problem& p, double dense_us, bool check, cudaStream_t stream) {
  double error = -1;
  if (check) {
    CHECK(cudaMemsetAsync(p.y, 0xff, sizeof(Bf16) * p.tokens * p.layer.d_out, stream));
    many<Shape>(p, 0, stream);
    CHECK(cudaStreamSynchronize(stream));
    std::swap(p.layer.y, const_cast<Problem&>(p).y);
    error = p.layer.error(p.tokens);
    std::swap(p.layer.y, const_cast<Problem&>(p).y);
  }
  const double us = microseconds([&](int c, cudaStream_t s) { many<Shape>(p, c, s); }, p.layer.copies, stream, 5);
  const double flops = 2. * p.tokens * p.layer.d_out * p.layer.d_in;
  std::printf("%d,%d,%d,%d,%s,%.1f,%.1f,%.0f,%.3f,%.1e\n", p.layer.d_out, p.layer.d_in, p.tokens, p.rank, name,
              dense_us, us, flops / us * 1e-6, dense_us / us, error);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1;
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  Cublas cublas(stream);
  std::printf("d_out,d_in,tokens,rank,tile,dense us,us,TF eff,x dense,error\n");
  struct {
    int d_out, d_in;
  } shapes[] = {{4096, 4096}, {14336, 4096}, {4096, 14336}};
  for (const auto& s : shapes) {
    Layer layer(s.d_out, s.d_in, 64, 1, 300e6);
    constexpr int kMost = 4096;
    Problem p{layer,
              device<Bf16>(std::size_t(kMost) * s.d_in),
              device<Bf16>(std::size_t(kMost) * s.d_out),
              device<Bf16>(kMost * 128),
              0,
              64};
    const std::size_t dense_n = static_cast<std::size_t>(s.d_out) * s.d_in;
    const int dense_copies = std::max(2, static_cast<int>(300e6 / (2. * dense_n)) + 1);
    Bf16* dense = device<Bf16>(dense_n * dense_copies);
    fill_values<<<4096, 256>>>(dense, dense_n * dense_copies, 9, .03f);
    fill_values<<<4096, 256>>>(p.x, std::size_t(kMost) * s.d_in, 5, 1.f);
    CHECK(cudaMemset(p.t, 0, kMost * 256));
    CHECK(cudaDeviceSynchronize());
    for (int tokens : {64, 128, 200, 256, 512, 1024, 2048, 4096}) {
      p.tokens = tokens;
      const bool check = tokens <= 256 && s.d_in == 4096;
      if (quick && !check) continue;
      if (check) {
        double *t64 = device<double>(64 * tokens), *y64 = device<double>(std::size_t(s.d_out) * tokens);
        std::swap(layer.t64, t64), std::swap(layer.y64, y64), std::swap(layer.x, p.x);
        layer.make_reference(tokens);
        CHECK(cudaDeviceSynchronize());
        std::swap(layer.x, p.x);
      }
      const double us = microseconds(
          [&](int c, cudaStream_t) { cublas.linear(dense + c * dense_n, p.x, p.y, s.d_out, s.d_in, tokens); },
          dense_copies, stream, 5);
      p.rank = 64;
      report<ManyShape<128, 1, 8, 4>>("128", p, us, check, stream);
      report<ManyShape<128, 2, 8, 4>>("128x2", p, us, check, stream);
      report<ManyShape<256, 1, 5, 3>>("256", p, us, check, stream);
      report<ManyShape<256, 2, 5, 3>>("256x2", p, us, check, stream);
      if (tokens >= 512) p.rank = 0, report<ManyShape<256, 2, 5, 3>>("256x2", p, us, false, stream);
    }
    CHECK(cudaFree(dense));
    CHECK(cudaFree(p.x));
    CHECK(cudaFree(p.y));
    CHECK(cudaFree(p.t));
  }
}
