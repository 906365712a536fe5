// A GPU: events around CUDA graphs (or calls, where a call waits for the host), cuBLAS as the dense baseline.
#include <algorithm>

#include "cuda_libraries.hpp"
#include "device.hpp"
#include "read.cuh"
#include "sparlow/backend.hpp"

namespace sparlow::bench {
namespace {

constexpr int kLeastCalls = 24;     // of one graph, so that gaps between graphs do not count
constexpr double kEnough = 300e-6;  // seconds of calls in a row, for the same reason
constexpr int kWarmUp = 3;

// What one repeat launches.
class Launch {
 public:
  Launch(const Way& way, cudaStream_t stream) : way_(way), stream_(stream) {
    way_.run(0);  // kernels load, workspaces are made
    check(cudaStreamSynchronize(stream_), "the first call");
    if (!way.queued) return;
    calls_ = way.copies * std::max(1, (kLeastCalls + way.copies - 1) / way.copies);
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    for (int i = 0; i < calls_; ++i) way_.run(i);
    check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&graph_, graph, 0), "cudaGraphInstantiate");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }
  ~Launch() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }
  Launch(const Launch&) = delete;

  // Without a graph: as many calls as make up enough time.
  void calibrate(cudaEvent_t begin, cudaEvent_t end) {
    if (graph_ == nullptr) calls_ = calls_for(seconds_per_call(begin, end), kEnough);
  }

  double seconds_per_call(cudaEvent_t begin, cudaEvent_t end) {
    float ms = 0;
    check(cudaEventRecord(begin, stream_), "cudaEventRecord");
    if (graph_ != nullptr) check(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch");
    for (int i = 0; graph_ == nullptr && i < calls_; ++i) way_.run(turn_++);
    check(cudaEventRecord(end, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    return 1e-3 * ms / calls_;
  }

 private:
  const Way& way_;
  cudaStream_t stream_;
  cudaGraphExec_t graph_ = nullptr;
  int calls_ = 1, turn_ = 1;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(std::string name, std::unique_ptr<Backend> plugin) : name_(std::move(name)), plugin_(std::move(plugin)) {
    check(cudaSetDevice(name_ == "cuda" ? 0 : std::stoi(name_.substr(5))), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
    libraries_ = std::make_unique<CudaLibraries>(stream_);
  }
  ~CudaDevice() override {
    libraries_.reset();
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }

  std::string name() const override { return name_; }
  Json facts() const override {
    cudaDeviceProp properties{};
    int device = 0, driver = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    return Json()
        .add("name", properties.name)
        .add("multiprocessors", properties.multiProcessorCount)
        .add("cache_bytes", cache_bytes())
        .add("memory_bytes", static_cast<std::int64_t>(properties.totalGlobalMem))
        .add("driver_cuda", std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10))
        .add("dense", libraries_->version());
  }
  std::uintptr_t stream() const override { return reinterpret_cast<std::uintptr_t>(stream_); }
  std::int64_t cache_bytes() const override {
    int device = 0, bytes = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, device), "cudaDeviceGetAttribute");
    return 2 * std::int64_t{bytes};  // two partitions may each keep a copy
  }
  std::shared_ptr<void> allocate(std::int64_t bytes) override {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, static_cast<std::size_t>(std::max<std::int64_t>(1, bytes)));
    if (status != cudaSuccess) fail(ErrorCode::out_of_memory, "no ", bytes, " bytes of GPU memory are free");
    return {memory, cudaFree};
  }
  void upload(void* device, const void* host, std::int64_t bytes) override {
    check(cudaMemcpy(device, host, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  void download(void* host, const void* device, std::int64_t bytes) override {
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    check(cudaMemcpy(host, device, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost), "cudaMemcpy");
  }

  std::vector<Spread> measure(const std::vector<Way>& ways, int repeats) override {
    std::vector<std::unique_ptr<Launch>> launches;
    for (const Way& way : ways) {
      launches.push_back(std::make_unique<Launch>(way, stream_));
      launches.back()->calibrate(begin_, end_);
    }
    std::vector<std::vector<double>> seconds(ways.size());
    for (int repeat = -kWarmUp; repeat < repeats; ++repeat)
      for (std::size_t i = 0; i < ways.size(); ++i) {
        const double once = launches[i]->seconds_per_call(begin_, end_);
        if (repeat >= 0) seconds[i].push_back(once);
      }
    std::vector<Spread> out;
    for (std::vector<double>& times : seconds) out.push_back(spread(std::move(times)));
    return out;
  }

  std::string dense_name(DType dtype) const override {
    return std::string("cuBLAS ") + (dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : "f16");
  }
  DType dense_dtype(DType dtype) const override { return dtype; }
  void dense(const void* x, const void* w, void* y, Index tokens, Index d_out, Index d_in, DType dtype) override {
    libraries_->product(x, w, y, static_cast<int>(tokens), static_cast<int>(d_out), static_cast<int>(d_in), dtype);
  }
  void invert(void* a, Index n) override { libraries_->invert(static_cast<float*>(a), static_cast<int>(n)); }
  void orthonormalise(void* a, Index rows, Index cols) override {
    libraries_->orthonormalise(static_cast<float*>(a), static_cast<int>(rows), static_cast<int>(cols));
  }

  Spread read_seconds(std::int64_t bytes) override {
    const std::shared_ptr<void> memory = allocate(bytes), sum = allocate(sizeof(unsigned));
    check(cudaMemset(memory.get(), 1, static_cast<std::size_t>(bytes)), "cudaMemset");
    const auto read = [&](int) {
      check(read_all(memory.get(), static_cast<std::size_t>(bytes), static_cast<unsigned*>(sum.get()), stream_),
            "the read kernel");
    };
    return measure({{read}}, 9)[0];
  }

 private:
  std::string name_;
  std::unique_ptr<Backend> plugin_;  // keeps the plugin, and with it cuBLAS, loaded
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  std::unique_ptr<CudaLibraries> libraries_;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(const std::string& name) {
  return std::make_unique<CudaDevice>(name, make_backend(name));  // which refuses other names
}

}  // namespace sparlow::bench
