// On a GPU: every layer of a checkpoint that a GPU runs, on the caller's stream and replayed from a captured graph,
// against the CPU.
// Usage: embed_cuda FOLDER
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "sparlow/embed.hpp"

namespace embed = sparlow::embed;

namespace {

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

float value(std::uint16_t bits) {
  const std::uint32_t word = std::uint32_t{bits} << 16;
  float out;
  std::memcpy(&out, &word, sizeof out);
  return out;
}

double difference(const std::vector<std::uint16_t>& a, const std::vector<std::uint16_t>& b) {
  double worst = 0, largest = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    worst = std::fmax(worst, std::fabs(value(a[i]) - value(b[i])));
    largest = std::fmax(largest, std::fabs(value(a[i])));
  }
  return worst / largest;
}

// The worst relative difference of two forward passes: called, and replayed.
double compare(const embed::Checkpoint& checkpoint, const embed::Context& cpu, const embed::Context& gpu,
               const char* name, std::int64_t tokens, cudaStream_t stream) {
  const embed::Layer on_cpu(cpu, checkpoint, name), on_gpu(gpu, checkpoint, name);
  const auto info = on_cpu.info();
  std::vector<std::uint16_t> x(tokens * info.d_in), y(tokens * info.d_out), called(y.size()), replayed(y.size());
  for (std::size_t j = 0; j < x.size(); ++j)
    x[j] = static_cast<std::uint16_t>(0x3f00 + j * 2654435761u % 257 - (j % 3 ? 0 : 0x8000));
  on_cpu.forward(x.data(), y.data(), tokens, embed::Workspace(on_cpu.workspace_bytes(tokens)));
  void *device_x, *device_y;
  check(cudaMalloc(&device_x, x.size() * 2));
  check(cudaMalloc(&device_y, y.size() * 2));
  check(cudaMemcpy(device_x, x.data(), x.size() * 2, cudaMemcpyHostToDevice));
  const embed::Workspace none(0);
  on_gpu.forward(device_x, device_y, tokens, none, stream);
  check(cudaMemcpyAsync(called.data(), device_y, y.size() * 2, cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  on_gpu.forward(device_x, device_y, tokens, none, stream);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  check(cudaMemsetAsync(device_y, 0, y.size() * 2, stream));
  check(cudaGraphLaunch(executable, stream));
  check(cudaMemcpyAsync(replayed.data(), device_y, y.size() * 2, cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaFree(device_x);
  cudaFree(device_y);
  return std::fmax(difference(y, called), difference(called, replayed));
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  const embed::Checkpoint checkpoint(argv[1]);
  const embed::Context cpu("cpu"), gpu("cuda", stream);
  double worst = 0;
  int ran = 0;
  for (std::int64_t i = 0; i < checkpoint.layers(); ++i) {
    const auto info = checkpoint.layer(i);
    if (info.format != SPARLOW_NM24 || info.dtype != SPARLOW_BF16) continue;
    ++ran;
    for (const std::int64_t tokens : {1, 5, 64})
      worst = std::fmax(worst, compare(checkpoint, cpu, gpu, info.name, tokens, stream));
  }
  std::printf("%d layers, worst relative difference %.2e\n", ran, worst);
  return ran > 0 && worst < 2e-2 ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("FAILED: %s\n", error.what());
  return 1;
}
