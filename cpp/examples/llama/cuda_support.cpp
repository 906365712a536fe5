#include "cuda_support.hpp"

#include <charconv>
#include <stdexcept>
#include <string>

namespace llama::cuda {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string(what) + ": " + cublasGetStatusString(status));
}

int device_number(const std::string& device) {
  int number = 0, devices = 0;
  if (device != "cuda") {
    const bool known = device.rfind("cuda:", 0) == 0;
    const char *begin = device.c_str() + (known ? 5 : 0), *end = device.c_str() + device.size();
    const auto [stop, error] = std::from_chars(begin, end, number);
    if (!known || error != std::errc{} || stop != end || number < 0)
      throw std::runtime_error("unknown device '" + device + "'; cpu, cuda and cuda:N are known");
  }
  check(cudaGetDeviceCount(&devices), "looking for a GPU");
  if (number >= devices)
    throw std::runtime_error("device '" + device + "': this machine has " + std::to_string(devices) + " GPUs");
  return number;
}

DeviceMemory::DeviceMemory(std::int64_t bytes) {
  if (bytes > 0)
    check(cudaMalloc(&data_, static_cast<std::size_t>(bytes)),
          ("allocating " + std::to_string(bytes) + " bytes of the GPU's memory").c_str());
}

PinnedMemory::PinnedMemory(std::int64_t bytes) {
  check(cudaMallocHost(&data_, static_cast<std::size_t>(bytes)), "cudaMallocHost");
}

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }

void Stream::wait() const { check(cudaStreamSynchronize(stream_), "waiting for the GPU"); }

Graph::~Graph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  if (graph_ != nullptr) cudaGraphDestroy(graph_);
}

void Graph::begin(cudaStream_t stream) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}

void Graph::end(cudaStream_t stream) {
  check(cudaStreamEndCapture(stream, &graph_), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable_, graph_, 0), "cudaGraphInstantiate");
}

void Graph::abandon(cudaStream_t stream) {
  cudaGraph_t broken = nullptr;
  cudaStreamEndCapture(stream, &broken);
  if (broken != nullptr) cudaGraphDestroy(broken);
}

void Graph::launch(cudaStream_t stream) const { check(cudaGraphLaunch(executable_, stream), "cudaGraphLaunch"); }

Blas::Blas(cudaStream_t stream) : workspace_(kWorkspace) {
  check(cublasCreate(&handle_), "cublasCreate");
  check(cublasSetStream(handle_, stream), "cublasSetStream");
  check(cublasSetWorkspace(handle_, workspace_.data(), kWorkspace), "cublasSetWorkspace");
}

}  // namespace llama::cuda
