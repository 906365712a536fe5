// On a GPU: every layer of a checkpoint that a GPU runs, on the caller's stream and replayed from a captured graph,
// against the CPU.
// Usage: embed_cuda FOLDER
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <future>
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

// Threads that share one layer, each with a stream of its own: how many of their results differ from `want`.
int shared_by_threads(const embed::Layer& layer, std::int64_t tokens, const void* device_x,
                      const std::vector<std::uint16_t>& want) {
  constexpr int kThreads = 16, kPasses = 8;
  std::atomic<int> different{0};
  const auto work = [&] {
    cudaStream_t stream;
    void* device_y;
    const embed::Workspace none(0);
    std::vector<std::uint16_t> y(want.size());
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check(cudaMalloc(&device_y, y.size() * 2));
    for (int pass = 0; pass < kPasses; ++pass) {
      check(cudaMemsetAsync(device_y, 0xff, y.size() * 2, stream));
      layer.forward(device_x, device_y, tokens, none, stream);
      check(cudaMemcpyAsync(y.data(), device_y, y.size() * 2, cudaMemcpyDeviceToHost, stream));
      check(cudaStreamSynchronize(stream));
      different += y != want;
    }
    cudaFree(device_y);
    cudaStreamDestroy(stream);
  };
  std::vector<std::future<void>> threads;
  for (int i = 0; i < kThreads; ++i) threads.push_back(std::async(std::launch::async, work));
  for (auto& thread : threads) thread.get();  // rethrows
  return different;
}

// The number of differing results over some numbers of tokens.
int check_threads(const embed::Checkpoint& checkpoint, const embed::Context& gpu, const char* name,
                  cudaStream_t stream) {
  const embed::Layer layer(gpu, checkpoint, name);
  const auto info = layer.info();
  int different = 0;
  for (const std::int64_t tokens : {1, 8, 100}) {
    std::vector<std::uint16_t> x(tokens * info.d_in), want(tokens * info.d_out);
    for (std::size_t j = 0; j < x.size(); ++j) x[j] = static_cast<std::uint16_t>(0x3f00 + j * 2654435761u % 257);
    void *device_x, *device_y;
    check(cudaMalloc(&device_x, x.size() * 2));
    check(cudaMalloc(&device_y, want.size() * 2));
    check(cudaMemcpy(device_x, x.data(), x.size() * 2, cudaMemcpyHostToDevice));
    layer.forward(device_x, device_y, tokens, embed::Workspace(0), stream);
    check(cudaMemcpyAsync(want.data(), device_y, want.size() * 2, cudaMemcpyDeviceToHost, stream));
    check(cudaStreamSynchronize(stream));
    different += shared_by_threads(layer, tokens, device_x, want);
    cudaFree(device_x);
    cudaFree(device_y);
  }
  return different;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  const embed::Checkpoint checkpoint(argv[1]);
  const embed::Context cpu("cpu"), gpu("cuda", stream);
  double worst = 0;
  int ran = 0, different = 0;
  for (std::int64_t i = 0; i < checkpoint.layers(); ++i) {
    const auto info = checkpoint.layer(i);
    if (info.format != SPARLOW_NM24 || info.dtype != SPARLOW_BF16) continue;
    if (ran++ < 3) different += check_threads(checkpoint, gpu, info.name, stream);
    for (const std::int64_t tokens : {1, 5, 64})
      worst = std::fmax(worst, compare(checkpoint, cpu, gpu, info.name, tokens, stream));
  }
  std::printf("%d layers, worst relative difference %.2e; 16 threads sharing a layer: %d results differ\n", ran, worst,
              different);
  return ran > 0 && worst < 2e-2 && different == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("FAILED: %s\n", error.what());
  return 1;
}
