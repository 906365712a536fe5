// Sweep of the knobs: warps, ring stages, splits, overlap.
#include <string>

#include "../../../cuda/kernels/nm24_decode.cuh"
#include "../../../cuda/kernels/nm24_wide.cuh"
#include "harness.cuh"

using namespace ladder;

struct Variant {
  std::string name;
  int tiles;
  std::function<void(ForwardArgs, Overlap, cudaStream_t)> run;
  int row_block;
  int splits;
};

// per_sm > 0 asks for more shared memory than needed, so that no more blocks fit.
template <int kTiles, int kWarps, int kStages>
void add_decode(std::vector<Variant>& list, int per_sm = 0, bool alone = false) {
  auto kernel = decode_kernel<Bf16, kTiles, kWarps, kStages>;
  const int least = per_sm ? 232448 / (per_sm + 1) : 0;
  const int most = std::max(kWarps * decode_warp_bytes<kTiles, kStages>(8 * kTiles), least);
  if (most > 226 * 1024) std::printf("# skipped decode %d %d %d\n", kTiles, kWarps, kStages);
  if (most > 226 * 1024) return;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 226 * 1024));
  list.push_back({(alone ? "only " : "") + std::string("decode t") + std::to_string(kTiles) + " w" +
                      std::to_string(kWarps) + " s" + std::to_string(kStages) + " b" + std::to_string(per_sm),
                  kTiles,
                  [=](ForwardArgs a, Overlap o, cudaStream_t s) {
                    int t_units = a.parts * a.rank_steps * blocks(a.tokens, 8 * std::min(kTiles, 4));
                    if (alone) a.rank_steps = t_units = 0;
                    const int rows = blocks(a.d_out, kRowBlock) * blocks(a.tokens, 8 * kTiles);
                    a.first_block = t_units * kInnerSplits, a.splits = 1;
                    a.t_users = rows * std::min(kWarps, a.rank_steps);
                    launch(kernel, dim3(a.first_block + rows), kWarps * 32,
                           std::max(kWarps * decode_warp_bytes<kTiles, kStages>(a.tokens), least), 1,
                           o != Overlap::none, s, a);
                  },
                  1, 1});
}

template <int kTiles, int kGroups, int kStages>
void add_wide(std::vector<Variant>& list, bool alone = false) {
  using Shape = WideShape<kTiles, kGroups, kStages>;
  auto kernel = wide_kernel<Bf16, Shape>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  for (int splits : {1, 2, 4}) {
    const std::string name = (alone ? "only " : "") + std::string("wide t") + std::to_string(kTiles) + " g" +
                             std::to_string(kGroups) + " s" + std::to_string(kStages) + " k" + std::to_string(splits);
    list.push_back({name, kTiles,
                    [=](ForwardArgs a, Overlap o, cudaStream_t s) {
                      int t_units = a.parts * a.rank_steps * blocks(a.tokens, 8 * std::min(kTiles, 4));
                      if (alone) a.rank_steps = t_units = 0;
                      a.splits = splits, a.first_block = t_units * kInnerSplits;
                      const int rows = splits * blocks(a.d_out, Shape::kRows) * blocks(a.tokens, Shape::kTokens);
                      a.t_users = rows;
                      launch(kernel, dim3(a.first_block + rows), Shape::kThreads, Shape::kSharedBytes, splits,
                             o != Overlap::none, s, a, map_of_x(a, Shape::kTokens));
                    },
                    Shape::kRowBlocks, splits});
  }
}

int main(int argc, char** argv) {
  const int only_shape = argc > 2 ? atoi(argv[1]) : -1, only_tokens = argc > 2 ? atoi(argv[2]) : -1;
  const char* only_name = argc > 3 ? argv[3] : "";
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  Cublas cublas(stream);
  cudaDeviceProp p;
  CHECK(cudaGetDeviceProperties(&p, 0));
  std::printf("# %s, %d SMs\n", p.name, p.multiProcessorCount);
  std::vector<Variant> list;
  add_decode<1, 8, 1>(list), add_decode<1, 8, 2>(list), add_decode<1, 16, 1>(list), add_decode<2, 8, 1>(list);
  add_wide<1, 1, 5>(list);
  add_wide<2, 1, 5>(list), add_wide<2, 1, 8>(list), add_wide<2, 2, 4>(list);
  add_wide<4, 1, 4>(list), add_wide<4, 1, 6>(list), add_wide<4, 2, 3>(list), add_wide<4, 2, 7>(list);
  add_wide<8, 1, 3>(list), add_wide<8, 1, 4>(list), add_wide<8, 1, 7>(list), add_wide<8, 2, 2>(list);
  add_wide<8, 2, 3>(list), add_wide<8, 2, 5>(list);
  std::size_t n = (1ull << 30) / 16;
  uint4* big = device<uint4>(n);
  CHECK(cudaMemset(big, 1, n * 16));
  std::uint32_t* sink = device<std::uint32_t>(4);
  const double read_us =
      microseconds([&](int, cudaStream_t s) { read_all<<<132 * 4, 512, 0, s>>>(big, n, sink); }, 2, stream, 5);
  const double peak = 1073.741824e6 / read_us * 1e-3;
  std::printf("# pure read of 1 GiB: %.0f GB/s\n", peak);
  CHECK(cudaFree(big));
  struct {
    int d_out, d_in, parts;
  } shapes[] = {{4096, 4096, 1},  {6144, 4096, 3},  {14336, 4096, 1},
                {28672, 4096, 2}, {4096, 14336, 1}, {1024, 4096, 1}};
  int shape_index = -1;
  for (auto& sh : shapes) {
    if (++shape_index != only_shape && only_shape >= 0) continue;
    Layer layer(sh.d_out, sh.d_in, 64, sh.parts);
    const std::size_t dense_n = static_cast<std::size_t>(sh.d_out) * sh.d_in;
    const int dense_copies = std::max(2, static_cast<int>(420e6 / (2. * dense_n)) + 1);
    Bf16* dense = device<Bf16>(dense_n * dense_copies);
    fill_values<<<4096, 256>>>(dense, dense_n * dense_copies, 9, .03f);
    for (int tokens : {1, 2, 4, 8, 16, 32, 64}) {
      if (only_tokens >= 0 && tokens != only_tokens) continue;
      if (only_tokens >= 0) {
        for (auto& variant : list)
          if (variant.name == only_name) variant.run(layer.args(0, tokens, variant.tiles), Overlap::all, stream);
        CHECK(cudaDeviceSynchronize());
        continue;
      }
      const double dense_us = microseconds(
          [&](int c, cudaStream_t) { cublas.linear(dense + c * dense_n, layer.x, layer.y, sh.d_out, sh.d_in, tokens); },
          dense_copies, stream);
      std::printf("%dx%d,%d,dense,-,%.2f,%.0f,%.3f,1,0\n", sh.d_out, sh.d_in, tokens, dense_us,
                  2e-3 * dense_n / dense_us, 2e-3 * dense_n / dense_us / peak);
      layer.make_reference(tokens);
      for (auto& variant : list) {
        const int least = tokens <= 8 ? 1 : tokens <= 16 ? 2 : tokens <= 32 ? 4 : 8;
        if (variant.tiles != least) continue;
        const int grid = blocks(sh.d_out, 32 * variant.row_block) * variant.splits;
        if (variant.splits > 1 && (grid > 132 * 3 || sh.d_in / 128 / variant.splits < 2)) continue;
        for (Overlap o : {Overlap::none, Overlap::all}) {
          layer.poison();
          variant.run(layer.args(0, tokens, variant.tiles), o, stream);
          const double error = layer.error(tokens);
          const double us =
              microseconds([&](int c, cudaStream_t s) { variant.run(layer.args(c, tokens, variant.tiles), o, s); },
                           layer.copies, stream);
          const double gbs = layer.bytes(tokens) / us * 1e-3;
          std::printf("%dx%d,%d,%s,%d,%.2f,%.0f,%.3f,%.3f,%.2e\n", sh.d_out, sh.d_in, tokens, variant.name.c_str(),
                      static_cast<int>(o), us, gbs, gbs / peak, dense_us / us, error);
        }
      }
      std::fflush(stdout);
    }
    CHECK(cudaFree(dense));
  }
}
