// What the shipped kernels reach: every shape and number of tokens against float64, cuBLAS bf16 in the same run and the
// bandwidth of a plain read. Weights are cold: copies rotate through more than 400 MB. Medians of CUDA graphs.
#include "../../../cuda/kernels/nm24.hpp"
#include "harness.cuh"

using namespace ladder;

namespace {

double read_bandwidth(cudaStream_t stream) {
  const std::size_t n = (1ull << 30) / 16;
  uint4* big = device<uint4>(n);
  CHECK(cudaMemset(big, 1, n * 16));
  std::uint32_t* sink = device<std::uint32_t>(4);
  const auto read = [&](int, cudaStream_t s) { read_all<<<132 * 4, 512, 0, s>>>(big, n, sink); };
  const double us = microseconds(read, 2, stream, 5);
  CHECK(cudaFree(big));
  CHECK(cudaFree(sink));
  return n * 16e-3 / us;
}

Nm24Shape shape_of(const Layer& layer) {
  Nm24Shape shape{};
  shape.d_in = layer.d_in, shape.rank = layer.rank, shape.parts = layer.parts;
  for (int p = 0; p < layer.parts; ++p) shape.rows[p] = layer.d_out / layer.parts;
  return shape;
}

// What kernels need beside a layer.
struct Room {
  void *workspace, *scratch;
};

Nm24Call call_of(const Layer& layer, int copy, int tokens, const Room& room, bool overlap) {
  return {layer.weights + copy * layer.weight_n,
          layer.u + copy * layer.u_n,
          layer.v + copy * layer.v_n,
          nullptr,
          layer.x,
          layer.y,
          room.workspace,
          room.scratch,
          tokens,
          Half::bfloat16,
          overlap};
}

// ladder d_out d_in tokens: every copy of a layer once, for a profiler.
int profile(char** arguments, const Nm24Device& gpu, const Room& room, cudaStream_t stream) {
  const int tokens = std::atoi(arguments[2]);
  Layer layer(std::atoi(arguments[0]), std::atoi(arguments[1]), 64, 1);
  const Nm24Shape shape = shape_of(layer);
  const Nm24Plan plan = nm24_plan(shape, tokens, true, gpu);
  for (int c = 0; c < layer.copies; ++c)
    CHECK(nm24_forward(shape, plan, call_of(layer, c, tokens, room, false), stream));
  CHECK(cudaStreamSynchronize(stream));
  std::printf("%s, %d launches of %.0f bytes each\n", nm24_name(plan), layer.copies, layer.bytes(tokens));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  cudaDeviceProp p;
  CHECK(cudaGetDeviceProperties(&p, 0));
  const Nm24Device gpu{10 * p.major + p.minor, p.multiProcessorCount};
  const Room room{device<char>(8 << 20), device<char>(1 << 20)};
  CHECK(cudaMemset(room.workspace, 0, 8 << 20));
  if (argc == 4) return profile(argv + 1, gpu, room, stream);
  Cublas cublas(stream);
  const double peak = read_bandwidth(stream);
  std::printf("# %s, %d multiprocessors, plain read %.0f GB/s\n", p.name, p.multiProcessorCount, peak);
  std::printf("# overlapped: each launch may begin before the one ahead of it has ended\n");
  std::printf("d_out,d_in,layers,tokens,kernel,dense us,us,GB/s,of read,x dense,overlapped us,x dense,error\n");
  double logarithms = 0;
  int rows = 0;
  struct {
    int d_out, d_in, parts;
  } shapes[] = {{4096, 4096, 1},  {6144, 4096, 3},  {14336, 4096, 1},
                {28672, 4096, 2}, {4096, 14336, 1}, {1024, 4096, 1}};
  for (const auto& s : shapes) {
    Layer layer(s.d_out, s.d_in, 64, s.parts);
    const Nm24Shape shape = shape_of(layer);
    const std::size_t dense_n = static_cast<std::size_t>(s.d_out) * s.d_in;
    const int dense_copies = std::max(2, static_cast<int>(420e6 / (2. * dense_n)) + 1);
    Bf16* dense = device<Bf16>(dense_n * dense_copies);
    fill_values<<<4096, 256>>>(dense, dense_n * dense_copies, 9, .03f);
    for (int tokens : {1, 2, 4, 8, 16, 32, 64}) {
      const Nm24Plan plan = nm24_plan(shape, tokens, true, gpu);
      layer.make_reference(tokens);
      layer.poison();
      CHECK(nm24_forward(shape, plan, call_of(layer, 0, tokens, room, false), stream));
      const double error = layer.error(tokens);
      const double dense_us = microseconds(
          [&](int c, cudaStream_t) { cublas.linear(dense + c * dense_n, layer.x, layer.y, s.d_out, s.d_in, tokens); },
          dense_copies, stream);
      double us[2];
      for (const bool overlap : {false, true})
        us[overlap] = microseconds(
            [&](int c, cudaStream_t q) {
              CHECK(nm24_forward(shape, plan, call_of(layer, c, tokens, room, overlap), q));
            },
            layer.copies, stream);
      const double rate = layer.bytes(tokens) / us[0] * 1e-3;
      std::printf("%d,%d,%d,%d,%s,%.2f,%.2f,%.0f,%.2f,%.2f,%.2f,%.2f,%.1e\n", s.d_out, s.d_in, s.parts, tokens,
                  nm24_name(plan), dense_us, us[0], rate, rate / peak, dense_us / us[0], us[1], dense_us / us[1],
                  error);
      std::fflush(stdout);
      if (!(error < 2.4e-3)) return std::printf("wrong\n"), 1;
      logarithms += std::log(dense_us / us[0]), ++rows;
    }
    CHECK(cudaFree(dense));
  }
  std::printf("# geometric mean %.2f x dense\n", std::exp(logarithms / rows));
}
