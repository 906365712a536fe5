// Sweep of the knobs: warps, ring stages, splits, overlap.
#include <string>

#include "../../../cuda/kernels/nm24_wide.cuh"
#include "../../../cuda/kernels/nm24_decode.cuh"
#include "../../../cuda/kernels/nm24_prepare.cuh"
#include "harness.cuh"

using namespace ladder;

struct Variant {
  std::string name;
  int tiles;
  std::function<void(const ForwardArgs&, Overlap, cudaStream_t)> run;
  int row_block;
  int splits;
};

// prepare works on two tiles of tokens at a time when there are more than one.
void prepare(const ForwardArgs& a, Overlap overlap, cudaStream_t s) {
  if (a.rank_steps == 0) return;
  const int tiles = std::min(a.group_tiles, 2);
  launch(tiles == 1 ? prepare_kernel<Bf16, 1> : prepare_kernel<Bf16, 2>,
         dim3(kPrepareSplits, a.parts * a.rank_steps, blocks(a.tokens, 8 * tiles)), kPrepareWarps * 32, 0,
         kPrepareSplits, overlap == Overlap::all, s, a);
}

template <int kTiles, int kWarps, int kStages>
void add_decode(std::vector<Variant>& list, bool alone = false) {
  auto kernel = decode_kernel<Bf16, kTiles, kWarps, kStages>;
  const int most = kWarps * decode_warp_bytes<kTiles, kStages>(8 * kTiles);
  if (most > 226 * 1024) std::printf("skipped decode %d %d %d\n", kTiles, kWarps, kStages);
  if (most > 226 * 1024) return;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  list.push_back({(alone ? "only " : "") + std::string("decode t") + std::to_string(kTiles) + " w" +
                      std::to_string(kWarps) + " s" + std::to_string(kStages),
                  kTiles,
                  [=](const ForwardArgs& a, Overlap o, cudaStream_t s) {
                    if (!alone) prepare(a, o, s);
                    launch(kernel, dim3(blocks(a.d_out, kRowBlock), blocks(a.tokens, 8 * kTiles)), kWarps * 32,
                           kWarps * decode_warp_bytes<kTiles, kStages>(a.tokens), 1, o != Overlap::none, s, a);
                  },
                  1, 1});
}

void add_prepare(std::vector<Variant>& list, int tiles) {
  list.push_back({"only prepare t" + std::to_string(tiles), tiles, prepare, 1, 1});
}

template <int kTiles, int kGroups, int kStages>
void add_wide(std::vector<Variant>& list, bool alone = false) {
  using Shape = WideShape<kTiles, kGroups, kStages>;
  auto kernel = wide_kernel<Bf16, Shape>;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  for (int splits : {1, 2, 4, 8})
    list.push_back({(alone ? "only " : "") + std::string("wide t") + std::to_string(kTiles) + " g" +
                        std::to_string(kGroups) + " s" + std::to_string(kStages) + " k" + std::to_string(splits),
                    kTiles,
                    [=](const ForwardArgs& a, Overlap o, cudaStream_t s) {
                      if (!alone) prepare(a, o, s);
                      launch(kernel, dim3(splits, blocks(a.d_out, Shape::kRows), blocks(a.tokens, Shape::kTokens)),
                             Shape::kThreads, Shape::kSharedBytes, splits, o != Overlap::none, s, a,
                             map_of_x(a, Shape::kTokens));
                    },
                    Shape::kRowBlocks, splits});
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
  add_prepare(list, 1), add_prepare(list, 2), add_prepare(list, 4), add_prepare(list, 8);
  add_decode<1, 8, 3>(list, true);
  add_decode<1, 4, 3>(list), add_decode<1, 4, 4>(list), add_decode<1, 8, 2>(list), add_decode<1, 8, 3>(list);
  add_decode<1, 8, 4>(list), add_decode<1, 16, 1>(list), add_decode<1, 16, 2>(list), add_decode<1, 8, 1>(list);
  add_decode<2, 4, 3>(list), add_decode<2, 4, 4>(list), add_decode<2, 8, 1>(list), add_decode<2, 8, 2>(list);
  add_decode<2, 8, 3>(list), add_decode<2, 16, 1>(list), add_decode<2, 4, 2>(list), add_decode<2, 4, 6>(list);
  add_wide<1, 1, 9>(list), add_wide<1, 1, 18>(list), add_wide<1, 2, 5>(list);
  add_wide<2, 1, 8>(list), add_wide<2, 1, 16>(list), add_wide<2, 2, 5>(list), add_wide<2, 2, 10>(list);
  add_wide<4, 1, 6>(list), add_wide<4, 1, 12>(list), add_wide<4, 2, 4>(list), add_wide<4, 2, 8>(list);
  add_wide<4, 4, 4>(list);
  add_wide<8, 1, 4>(list), add_wide<8, 1, 8>(list), add_wide<8, 2, 3>(list), add_wide<8, 2, 6>(list);
  add_wide<8, 4, 4>(list);
  std::size_t n = (1ull << 30) / 16;
  uint4* big = device<uint4>(n);
  CHECK(cudaMemset(big, 1, n * 16));
  std::uint32_t* sink = device<std::uint32_t>(4);
  const double read_us = microseconds([&](int, cudaStream_t s) { read_all<<<132 * 4, 512, 0, s>>>(big, n, sink); }, 2,
                                      stream, 5);
  const double peak = 1073.741824e6 / read_us * 1e-3;
  std::printf("# pure read of 1 GiB: %.0f GB/s\n", peak);
  CHECK(cudaFree(big));
  struct { int d_out, d_in, parts; } shapes[] = {{4096, 4096, 1}, {6144, 4096, 3}, {14336, 4096, 1}, {28672, 4096, 2},
                                                 {4096, 14336, 1}, {1024, 4096, 1}};
  int shape_index = -1;
  for (auto& sh : shapes) {
    if (++shape_index != only_shape && only_shape >= 0) continue;
    Layer layer(sh.d_out, sh.d_in, 64, sh.parts);
    const std::size_t dense_n = static_cast<std::size_t>(sh.d_out) * sh.d_in;
    const int dense_copies = std::max(2, static_cast<int>(420e6 / (2. * dense_n)) + 1);
    Bf16* dense = device<Bf16>(dense_n * dense_copies);
    fill_values<<<4096, 256>>>(dense, dense_n * dense_copies, 9, .03f);
    for (int tokens : {1, 4, 8, 16, 32, 64}) {
      if (only_tokens >= 0 && tokens != only_tokens) continue;
      if (only_tokens >= 0) {
        for (auto& variant : list)
          if (variant.name == only_name) variant.run(layer.args(0, tokens, variant.tiles), Overlap::layer, stream);
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
        for (Overlap o : {Overlap::none, Overlap::layer, Overlap::all}) {
          if (o == Overlap::none && variant.name.find("only") && tokens > 1) continue;
          layer.poison();
          variant.run(layer.args(0, tokens, variant.tiles), o, stream);
          const double error = layer.error(tokens);
          const double us = microseconds(
              [&](int c, cudaStream_t s) { variant.run(layer.args(c, tokens, variant.tiles), o, s); }, layer.copies, stream);
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
