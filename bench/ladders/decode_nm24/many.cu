// Many tokens: every tile of the shipped kernel against cuBLAS bf16 in the same run, low-rank part included.
#include "../../../cuda/kernels/nm24.hpp"
#include "harness.cuh"

using namespace ladder;

namespace {

constexpr int kMost = 8192, kRank = 64;

std::string name_of(const ManyConfig& c) {
  return std::to_string(c.tokens) + (c.cluster > 1 ? " shared" : "") +
         (c.splits > 1 ? " / " + std::to_string(c.splits) : "");
}

struct Bench {
  Layer& layer;
  cudaStream_t stream;
  Bf16 *x, *y;
  void *workspace, *scratch;

  Nm24Shape shape(int rank) const {
    Nm24Shape s{};
    s.d_in = layer.d_in, s.rank = rank, s.rows[0] = layer.d_out;
    return s;
  }
  void run(const Nm24Plan& plan, int rank, int copy, int tokens, cudaStream_t q) const {
    CHECK(nm24_forward(shape(rank), plan,
                       {layer.weights + copy * layer.weight_n, layer.u + copy * layer.u_n, layer.v + copy * layer.v_n,
                        nullptr, x, y, workspace, scratch, tokens, Half::bfloat16, false},
                       q));
  }
  double time(const Nm24Plan& plan, int rank, int tokens) const {
    return microseconds([&](int c, cudaStream_t q) { run(plan, rank, c, tokens, q); }, layer.copies, stream, 5);
  }
  double error(const Nm24Plan& plan, int tokens) const {
    CHECK(cudaMemsetAsync(y, 0xff, sizeof(Bf16) * tokens * layer.d_out, stream));
    run(plan, kRank, 0, tokens, stream);
    CHECK(cudaStreamSynchronize(stream));
    Bf16* kept = layer.y;
    layer.y = y;
    const double found = layer.error(tokens);
    layer.y = kept;
    return found;
  }
  void reference(int tokens) const {
    cudaFree(layer.t64), cudaFree(layer.y64);
    layer.t64 = device<double>(std::size_t(kRank) * tokens);
    layer.y64 = device<double>(std::size_t(layer.d_out) * tokens);
    Bf16* kept = layer.x;
    layer.x = x;
    layer.make_reference(tokens);
    layer.x = kept;
  }
};

}  // namespace

int main() {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  Cublas cublas(stream);
  std::printf("d_out,d_in,tokens,tile,dense us,us,x dense,TF eff,without low rank us,error\n");
  const int shapes[][2] = {{4096, 4096}, {14336, 4096}, {4096, 14336}, {1024, 4096}, {6144, 4096}, {28672, 4096}};
  void *workspace = device<char>(8 << 20), *scratch = device<char>(8 << 20);
  CHECK(cudaMemset(workspace, 0, 8 << 20));
  for (const auto& s : shapes) {
    Layer layer(s[0], s[1], kRank, 1, 300e6);
    const Bench bench{
        layer,     stream, device<Bf16>(std::size_t(kMost) * s[1]), device<Bf16>(std::size_t(kMost) * s[0]),
        workspace, scratch};
    const std::size_t dense_n = static_cast<std::size_t>(s[0]) * s[1];
    const int dense_copies = std::max(2, static_cast<int>(300e6 / (2. * dense_n)) + 1);
    Bf16* dense = device<Bf16>(dense_n * dense_copies);
    fill_values<<<4096, 256>>>(dense, dense_n * dense_copies, 9, .03f);
    fill_values<<<4096, 256>>>(bench.x, std::size_t(kMost) * s[1], 5, 1.f);
    CHECK(cudaDeviceSynchronize());
    const bool fits_budget = s[0] * s[1] <= 4096 * 14336;
    for (int tokens : {64, 96, 128, 256, 512, 1024, 2048, 4096, 8192}) {
      if (!fits_budget && tokens != 256 && tokens != 4096) continue;
      const bool check = tokens <= 256;
      if (check) bench.reference(tokens);
      const double dense_us = microseconds(
          [&](int c, cudaStream_t) { cublas.linear(dense + c * dense_n, bench.x, bench.y, s[0], s[1], tokens); },
          dense_copies, stream, 5);
      const auto row = [&](const std::string& name, const Nm24Plan& plan) {
        const double error = check ? bench.error(plan, tokens) : -1, us = bench.time(plan, kRank, tokens);
        const double bare = tokens <= 64 ? 0 : bench.time(plan, 0, tokens);
        std::printf("%d,%d,%d,%s,%.1f,%.1f,%.3f,%.0f,%.1f,%.1e\n", s[0], s[1], tokens, name.c_str(), dense_us, us,
                    dense_us / us, 2. * tokens * dense_n / us * 1e-6, bare, error);
        std::fflush(stdout);
      };
      if (tokens <= 128) {
        Nm24Plan plan = nm24_plan(bench.shape(kRank), 64, true, {90, 132});
        plan.workspace = nm24_workspace(bench.shape(kRank), plan, tokens).end;
        row(nm24_name(plan), plan);
      }
      for (int variant = 0; tokens > 64 && variant < kManyConfigCount; ++variant) {
        const ManyConfig& c = kManyConfigs[variant];
        if ((c.splits > 1 && tokens > 1024) || (c.tokens == 256 && tokens <= 128)) continue;
        Nm24Plan plan{};
        plan.kernel = Nm24Kernel::many, plan.variant = variant;
        row(name_of(c), plan);
      }
    }
    CHECK(cudaFree(dense));
    CHECK(cudaFree(bench.x));
    CHECK(cudaFree(bench.y));
  }
}
