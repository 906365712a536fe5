// t = x vᵀ alone: by all blocks at once before the tiles, by few beside them, and by cuBLAS. `inner beside`: those
// beside the tiles only, without cuBLAS.
#include <optional>
#include <string_view>
#include <type_traits>

#include "../../../cuda/kernels/nm24_launch.cuh"
#include "../../../cuda/kernels/nm24_many_t.cuh"
#include "harness.cuh"

using namespace ladder;

namespace {

constexpr int kRank = 64;

struct Bench {
  int d_in;
  Bf16 *v_plain, *x, *t;
  std::uint32_t* v;
  cudaStream_t stream;

  ManyInnerArgs inner_args(int tokens, int copy) const {
    ManyInnerArgs a{};
    a.v = reinterpret_cast<const uint4*>(v + copy * v_words(kRank, d_in)), a.x = x, a.t = t, a.d_in = d_in,
    a.tokens = tokens;
    a.steps = blocks(d_in, kColumnBlock) * 4, a.rank_steps = 4, a.stages_per_part = 1, a.t_columns = 128;
    return a;
  }
  template <int kTiles, int kTokenWarps>
  void few(int tokens, int copy, cudaStream_t q) const {
    const dim3 grid(kManyInnerSplits, blocks(tokens, 8 * kTiles * kTokenWarps), 1);
    CHECK(sparlow::kernels::launch(many_inner_kernel<Bf16, kTiles, kTokenWarps>, grid, kManyInnerWarps * 32, 0,
                                   kManyInnerSplits, false, q, inner_args(tokens, copy)));
  }
  template <int kTokens>
  void beside(int tokens, int copy, int splits, cudaStream_t q) const {
    const TArgs a{inner_args(tokens, copy), splits, std::min(tokens, kTokens), kRank / kRankBlock, kRankTiles};
    TMaps maps;
    CHECK((map_t<Bf16, TShape<kTokens>>(a, maps)));
    const int cluster = std::max(splits, 2), grid = blocks(blocks(tokens, kTokens) * splits, cluster) * cluster;
    CHECK(sparlow::kernels::launch(many_t_kernel<Bf16, kTokens>, dim3(grid), TShape<kTokens>::kThreads,
                                   TShape<kTokens>::kSharedBytes, cluster, false, q, a, maps));
  }
  double error(const std::vector<double>& want, int tokens) const {
    CHECK(cudaStreamSynchronize(stream));
    std::vector<Bf16> got(std::size_t(tokens) * 128);
    CHECK(cudaMemcpy(got.data(), t, got.size() * 2, cudaMemcpyDeviceToHost));
    double difference = 0, norm = 0;
    for (int n = 0; n < tokens; ++n)
      for (int r = 0; r < kRank; ++r) {
        const double exact = want[std::size_t(r) * tokens + n];
        const double d =
            double(__bfloat162float(got[n * 128 + r])) + double(__bfloat162float(got[n * 128 + 64 + r])) - exact;
        difference += d * d, norm += exact * exact;
      }
    return std::sqrt(difference / norm);
  }
};

void measure(int d_in, cudaStream_t stream, const std::optional<Cublas>& cublas) {
  constexpr int kMost = 8192, kCopies = 40;
  Bench b{d_in,
          device<Bf16>(std::size_t(kRank) * d_in),
          device<Bf16>(std::size_t(kMost) * d_in),
          device<Bf16>(std::size_t(kMost) * 128),
          device<std::uint32_t>(kCopies * v_words(kRank, d_in)),
          stream};
  double* t64 = device<double>(std::size_t(kRank) * kMost);
  fill_values<<<4096, 256>>>(b.x, std::size_t(kMost) * d_in, 5, 1.f);
  fill_values<<<4096, 256>>>(b.v_plain, std::size_t(kRank) * d_in, 6, .02f);
  for (int c = 0; c < kCopies; ++c)
    pack_v<<<512, 256>>>(b.v + c * v_words(kRank, d_in),
                         Dense16{reinterpret_cast<std::uint16_t*>(b.v_plain), kRank, d_in}, v_words(kRank, d_in));
  CHECK(cudaDeviceSynchronize());
  for (int tokens : {65, 128, 193, 256, 512, 1024, 1025, 2048, 4096, 8192}) {
    reference_t<<<dim3(kRank, tokens), 32>>>(t64, b.x, b.v_plain, kRank, d_in, tokens);
    std::vector<double> want(std::size_t(kRank) * tokens);
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(want.data(), t64, want.size() * 8, cudaMemcpyDeviceToHost));
    const auto row = [&](const std::string& name, const auto& call, bool check) {
      CHECK(cudaMemsetAsync(b.t, 0xff, std::size_t(tokens) * 256, stream));
      call(0, stream);
      const double error = check ? b.error(want, tokens) : -1;
      const double us = microseconds(call, kCopies, stream, 5);
      std::printf("%d,%d,%s,%.2f,%.0f,%.2e\n", d_in, tokens, name.c_str(), us, 2e-3 * tokens * d_in / us, error);
      std::fflush(stdout);
    };
    if (cublas) {
      row("few 2 1", [&](int c, cudaStream_t q) { b.few<2, 1>(tokens, c, q); }, true);
      row("few 2 2", [&](int c, cudaStream_t q) { b.few<2, 2>(tokens, c, q); }, true);
      row("cublas", [&](int, cudaStream_t) { cublas->linear(b.v_plain, b.x, b.t, kRank, d_in, tokens); }, false);
    }
    const auto beside = [&](auto size) {
      constexpr int kTokens = decltype(size)::value;
      for (int splits : {1, 2, 4, 8})
        if (blocks(tokens, kTokens) * splits <= 132)
          row(
              "beside " + std::to_string(kTokens) + " / " + std::to_string(splits),
              [&](int c, cudaStream_t q) { b.beside<kTokens>(tokens, c, splits, q); }, true);
    };
    beside(std::integral_constant<int, 128>{}), beside(std::integral_constant<int, 192>{}),
        beside(std::integral_constant<int, 256>{});
  }
}

}  // namespace

int main(int argc, char** argv) {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  std::optional<Cublas> cublas;
  if (argc < 2 || std::string_view(argv[1]) != "beside") cublas.emplace(stream);
  std::printf("d_in,tokens,kernel,us,GB/s of x,error\n");
  measure(4096, stream, cublas);
  measure(14336, stream, cublas);
}
