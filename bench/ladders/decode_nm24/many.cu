// Many tokens: every tile of the shipped kernel against cuBLAS bf16 in the same run, low-rank part included.
#include "../../../cuda/kernels/nm24.hpp"
#include "harness.cuh"

using namespace ladder;

namespace {

constexpr int kMost = 8192, kRank = 64;

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

// many d_out d_in tokens: every tile while the device is busy, 300 launches each, against the bits of the first alone.
int repeat(char** arguments, cudaStream_t stream) {
  const int d_out = std::atoi(arguments[0]), d_in = std::atoi(arguments[1]), tokens = std::atoi(arguments[2]);
  Layer layer(d_out, d_in, kRank, 1, 300e6);
  const std::size_t outputs = std::size_t(tokens) * d_out;
  Bench bench{layer,
              stream,
              device<Bf16>(std::size_t(tokens) * d_in),
              device<Bf16>(outputs * layer.copies),
              nullptr,
              device<char>(8 << 20)};
  Bf16* y = bench.y;
  fill_values<<<4096, 256>>>(bench.x, std::size_t(tokens) * d_in, 5, 1.f);
  CHECK(cudaDeviceSynchronize());
  const auto read = [&](int copy) {
    std::vector<std::uint16_t> host(outputs);
    CHECK(cudaStreamSynchronize(stream));
    CHECK(cudaMemcpy(host.data(), y + copy * outputs, outputs * 2, cudaMemcpyDeviceToHost));
    return host;
  };
  for (int variant = 0; variant < kManyConfigCount; ++variant)
    for (int splits : {0, 8}) {
      Nm24Plan plan{};
      plan.kernel = Nm24Kernel::many, plan.variant = variant, plan.t_splits = splits, plan.t_tokens = 128;
      std::vector<std::vector<std::uint16_t>> want;
      for (int c = 0; c < layer.copies; ++c)
        bench.y = y + c * outputs, bench.run(plan, kRank, c, tokens, stream), want.push_back(read(c));
      int wrong = 0;
      for (int round = 0; round < 300 / layer.copies + 1; ++round) {
        for (int c = 0; c < layer.copies; ++c) bench.y = y + c * outputs, bench.run(plan, kRank, c, tokens, stream);
        for (int c = 0; c < layer.copies; ++c) wrong += read(c) != want[c];
      }
      std::printf("%d,%d,%d,%s,%d splits of t,%d launches differ\n", d_out, d_in, tokens, tile_name(variant).c_str(),
                  splits, wrong);
      std::fflush(stdout);
    }
  return 0;
}

// many d_out d_in tokens variant clusters t_splits: three launches, for a profiler.
int one(char** arguments, cudaStream_t stream) {
  int v[6];
  for (int i = 0; i < 6; ++i) v[i] = std::atoi(arguments[i]);
  Layer layer(v[0], v[1], kRank, 1, 100e6);
  const Bench bench{layer,
                    stream,
                    device<Bf16>(std::size_t(v[2]) * v[1]),
                    device<Bf16>(std::size_t(v[2]) * v[0]),
                    nullptr,
                    device<char>(8 << 20)};
  fill_values<<<4096, 256>>>(bench.x, std::size_t(v[2]) * v[1], 5, 1.f);
  Nm24Plan plan{};
  plan.kernel = Nm24Kernel::many, plan.variant = v[3], plan.clusters = v[4], plan.t_splits = v[5], plan.t_tokens = 256;
  CHECK(cudaDeviceSynchronize());
  for (int i = 0; i < 3; ++i) bench.run(plan, kRank, i % 2, v[2], stream);
  CHECK(cudaDeviceSynchronize());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  if (argc == 4) return repeat(argv + 1, stream);
  if (argc == 7) return one(argv + 1, stream);
  const int only = argc > 1 ? std::atoi(argv[1]) : -1;
  Cublas cublas(stream);
  std::printf("d_out,d_in,tokens,tile,clusters,blocks,dense us,us,x dense,TF eff,without low rank us,error\n");
  const int shapes[][2] = {{4096, 4096}, {6144, 4096}, {14336, 4096}, {4096, 14336}, {28672, 4096}};
  void *workspace = device<char>(8 << 20), *scratch = device<char>(64 << 20);
  CHECK(cudaMemset(workspace, 0, 8 << 20));
  for (const auto& s : shapes) {
    if (only >= 0 && &s != shapes + only) continue;
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
    for (int tokens : {48, 64, 65, 96, 128, 129, 192, 256, 384, 512, 768, 1024, 1025, 2048, 4096}) {
      const bool check = tokens <= 384 || (tokens == 1025 && s[0] == 4096 && s[1] == 4096);
      if (check) bench.reference(tokens);
      const double dense_us = microseconds(
          [&](int c, cudaStream_t) { cublas.linear(dense + c * dense_n, bench.x, bench.y, s[0], s[1], tokens); },
          dense_copies, stream, 5);
      for (int variant = 0; variant < kManyConfigCount; ++variant) {
        const ManyConfig& c = kManyConfigs[variant];
        const int tiles = blocks(s[0], kManyRows) * blocks(tokens, c.tokens);
        if (c.splits > 1 && tiles * c.splits > 140) continue;
        if (c.tokens >= 2 * tokens || c.tokens * 16 < tokens) continue;
        const int most = 132 / c.cluster;
        const int t_tokens = tokens <= 128 ? 128 : tokens <= 192 ? 192 : 256;
        int splits = 8;
        while (splits > 1 && blocks(tokens, t_tokens) * splits > std::max(4, 132 - tiles * c.splits)) splits /= 2;
        const auto row = [&](int clusters, bool beside) {
          Nm24Plan plan{};
          plan.kernel = Nm24Kernel::many, plan.variant = variant, plan.clusters = clusters;
          if (beside) plan.t_splits = splits, plan.t_tokens = t_tokens;
          const double error = check ? bench.error(plan, tokens) : -1, us = bench.time(plan, kRank, tokens);
          const double bare = beside ? -1 : bench.time(plan, 0, tokens);
          std::printf("%d,%d,%d,%s%s,%d,%d,%.1f,%.1f,%.3f,%.0f,%.1f,%.3e\n", s[0], s[1], tokens,
                      tile_name(variant).c_str(), beside ? " t beside" : "", clusters, tiles * c.splits, dense_us, us,
                      dense_us / us, 2. * tokens * dense_n / us * 1e-6, bare, error);
          std::fflush(stdout);
        };
        row(0, false), row(0, true);
        if (c.splits == 1 && tiles > 3 * most) row(most, false), row(most, true);
      }
      const Nm24Plan plan = nm24_plan(bench.shape(kRank), tokens, true, {90, 132});
      const double us = bench.time(plan, kRank, tokens);
      std::printf("%d,%d,%d,planned %s,%d,%d,%.1f,%.1f,%.3f,%.0f,-1,-1\n", s[0], s[1], tokens,
                  plan.kernel == Nm24Kernel::many ? tile_name(plan.variant).c_str() : nm24_name(plan), plan.clusters,
                  plan.t_splits, dense_us, us, dense_us / us, 2. * tokens * dense_n / us * 1e-6);
    }
    CHECK(cudaFree(dense));
    CHECK(cudaFree(bench.x));
    CHECK(cudaFree(bench.y));
  }
}
