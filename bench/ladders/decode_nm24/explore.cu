// Sweep of the knobs: warps, ring stages, splits, overlap.
#include <cstring>
#include <string>

#include "../../../cuda/kernels/nm24_batch.cuh"
#include "../../../cuda/kernels/nm24_decode.cuh"
#include "../../../cuda/kernels/nm24_prepare.cuh"
#include "1_registers.cuh"
#include "harness.cuh"

using namespace ladder;

struct Variant {
  std::string name;
  int tiles;
  std::function<void(const ForwardArgs&, Overlap, cudaStream_t)> run;
  int row_block;
  int splits;
};

template <int kTiles>
void prepare(const ForwardArgs& a, Overlap overlap, cudaStream_t s) {
  launch(prepare_kernel<Bf16, kTiles>, dim3(kPrepareSplits, std::max(1, a.parts * a.rank_steps)), kPrepareWarps * 32, 0,
         kPrepareSplits, overlap == Overlap::all, s, a);
}

template <int kTiles, int kWarps, int kStages>
void add_decode(std::vector<Variant>& list) {
  auto kernel = decode_kernel<Bf16, kTiles, kWarps, kStages>;
  constexpr int shared = DecodeShape<kWarps, kStages, kTiles>::kSharedBytes;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  list.push_back({"decode t" + std::to_string(kTiles) + " w" + std::to_string(kWarps) + " s" + std::to_string(kStages),
                  kTiles,
                  [=](const ForwardArgs& a, Overlap o, cudaStream_t s) {
                    prepare<kTiles>(a, o, s);
                    launch(kernel, dim3(blocks(a.d_out, kRowBlock)), kWarps * 32, shared, 1, o != Overlap::none, s, a);
                  },
                  1, 1});
}

template <int kTiles, int kWarps>
void add_registers(std::vector<Variant>& list) {
  list.push_back({"registers t" + std::to_string(kTiles) + " w" + std::to_string(kWarps), kTiles,
                  [=](const ForwardArgs& a, Overlap o, cudaStream_t s) {
                    prepare<kTiles>(a, o, s);
                    launch(registers_kernel<Bf16, kTiles, kWarps>, dim3(blocks(a.d_out, kRowBlock)), kWarps * 32, 0, 1,
                           o != Overlap::none, s, a);
                  },
                  1, 1});
}

template <int kTiles>
void add_parts(std::vector<Variant>& list) {
  list.push_back({"prepare only t" + std::to_string(kTiles), kTiles, prepare<kTiles>, 1, 1});
  constexpr int shared = DecodeShape<8, 3, 1>::kSharedBytes;
  if (kTiles == 1)
    list.push_back({"decode only t1 w8 s3", 1, [=](const ForwardArgs& a, Overlap o, cudaStream_t s) {
      launch(decode_kernel<Bf16, 1, 8, 3>, dim3(blocks(a.d_out, kRowBlock)), 256, shared, 1, o != Overlap::none, s, a);
    }, 1, 1});
}

template <int kTiles, int kRowBlocks, int kRowGroups, int kStages>
void add_batch(std::vector<Variant>& list) {
  auto kernel = batch_kernel<Bf16, kTiles, kRowBlocks, kRowGroups, kStages>;
  constexpr int shared = BatchShape<kTiles, kRowBlocks, kRowGroups, kStages>::kSharedBytes;
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  for (int splits : {1, 2, 4, 8})
    list.push_back({"batch t" + std::to_string(kTiles) + " rb" + std::to_string(kRowBlocks) + " rg" +
                        std::to_string(kRowGroups) + " s" + std::to_string(kStages) + " k" + std::to_string(splits),
                    kTiles,
                    [=](const ForwardArgs& a, Overlap o, cudaStream_t s) {
                      prepare<kTiles>(a, o, s);
                      launch(kernel, dim3(splits, blocks(a.d_out, kRowBlock * kRowBlocks)), (kBatchWarps + 1) * 32,
                             shared, splits, o != Overlap::none, s, a);
                    },
                    kRowBlocks, splits});
}

int main(int argc, char** argv) {
  const char* only = argc > 1 ? argv[1] : "";
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  Cublas cublas(stream);
  cudaDeviceProp p;
  CHECK(cudaGetDeviceProperties(&p, 0));
  std::printf("# %s, %d SMs\n", p.name, p.multiProcessorCount);
  std::vector<Variant> list;
  if (!strcmp(only, "") || !strcmp(only, "decode")) {
    add_registers<1, 8>(list), add_registers<1, 16>(list), add_registers<1, 4>(list), add_registers<2, 8>(list);
    add_parts<1>(list), add_parts<2>(list), add_parts<8>(list);
    add_decode<1, 8, 2>(list), add_decode<1, 8, 3>(list), add_decode<1, 8, 4>(list), add_decode<1, 8, 6>(list);
    add_decode<1, 4, 4>(list), add_decode<1, 4, 6>(list), add_decode<1, 4, 3>(list), add_decode<1, 16, 3>(list);
    add_decode<1, 16, 1>(list), add_decode<1, 16, 2>(list);
    add_decode<2, 8, 2>(list), add_decode<2, 8, 3>(list), add_decode<2, 8, 4>(list), add_decode<2, 8, 6>(list);
    add_decode<2, 4, 4>(list), add_decode<2, 4, 6>(list), add_decode<2, 16, 3>(list);
  }
  if (!strcmp(only, "") || !strcmp(only, "batch")) {
    add_batch<2, 2, 2, 4>(list), add_batch<2, 2, 2, 8>(list), add_batch<2, 4, 4, 4>(list);
    add_batch<4, 2, 2, 4>(list), add_batch<4, 2, 2, 6>(list), add_batch<4, 2, 2, 12>(list);
    add_batch<4, 4, 4, 4>(list), add_batch<4, 4, 2, 4>(list), add_batch<4, 4, 4, 8>(list), add_batch<4, 4, 2, 8>(list);
    add_batch<8, 4, 4, 3>(list), add_batch<8, 4, 4, 6>(list), add_batch<8, 4, 2, 6>(list), add_batch<8, 2, 2, 4>(list);
    add_batch<8, 8, 4, 4>(list);
  }
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
  for (auto& sh : shapes) {
    Layer layer(sh.d_out, sh.d_in, 64, sh.parts);
    const std::size_t dense_n = static_cast<std::size_t>(sh.d_out) * sh.d_in;
    const int dense_copies = std::max(2, static_cast<int>(420e6 / (2. * dense_n)) + 1);
    Bf16* dense = device<Bf16>(dense_n * dense_copies);
    fill_values<<<4096, 256>>>(dense, dense_n * dense_copies, 9, .03f);
    for (int tokens : {1, 4, 8, 16, 32, 64}) {
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
          if (o == Overlap::none && tokens != 1) continue;
          layer.poison();
          variant.run(layer.args(0, tokens), o, stream);
          const double error = layer.error(tokens);
          const double us = microseconds(
              [&](int c, cudaStream_t s) { variant.run(layer.args(c, tokens), o, s); }, layer.copies, stream);
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
