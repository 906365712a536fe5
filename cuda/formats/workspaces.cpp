#include "formats/workspaces.hpp"

#include <algorithm>
#include <bit>

#include "backend/context.hpp"

namespace sparlow::cuda {
namespace {

constexpr std::size_t kSmallest = std::size_t{4} << 20;  // enough for most layers and 8192 tokens of rank 64

// Allowed while any stream is captured: the call itself is not part of a graph.
class Uncaptured {
 public:
  Uncaptured() { check(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode"); }
  ~Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  Uncaptured(const Uncaptured&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace

// Blocks whose graph is gone, by size. A destroyed graph may not call CUDA, so its block comes here.
struct Workspaces::Pool {
  std::mutex mutex;
  std::multimap<std::size_t, void*> spare;

  Block take(std::size_t bytes) {
    {
      const std::lock_guard lock(mutex);
      if (const auto found = spare.lower_bound(bytes); found != spare.end()) {
        const Block block{found->second, found->first};
        spare.erase(found);
        return block;
      }
    }
    const Uncaptured uncaptured;
    Block block{nullptr, std::bit_ceil(std::max(bytes, kSmallest))};
    check(cudaMalloc(&block.memory, block.bytes), "cudaMalloc of a layer's workspace");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    cudaError_t status = cudaMemsetAsync(block.memory, 0, block.bytes, stream);
    if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    check(status, "clearing a layer's workspace");
    return block;
  }
  void give_back(const Block& block) {
    const std::lock_guard lock(mutex);
    spare.emplace(block.bytes, block.memory);
  }
};

std::shared_ptr<Workspaces::Pool> Workspaces::make_pool() { return std::make_shared<Pool>(); }

// The graph hands its block back when it and all its instances are destroyed.
void* Workspaces::for_graph(Block& block, std::size_t bytes, cudaGraph_t graph) {
  if (block.bytes >= bytes) return block.memory;
  block = pool_->take(bytes);
  struct Held {
    std::shared_ptr<Pool> pool;
    Block block;
  };
  auto held = std::make_unique<Held>(Held{pool_, block});
  const auto release = [](void* object) {
    const std::unique_ptr<Held> mine(static_cast<Held*>(object));
    mine->pool->give_back(mine->block);
  };
  cudaUserObject_t object = nullptr;
  check(cudaUserObjectCreate(&object, held.get(), release, 1, cudaUserObjectNoDestructorSync), "cudaUserObjectCreate");
  static_cast<void>(held.release());
  check(cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove), "cudaGraphRetainUserObject");
  return block.memory;
}

void* Workspaces::get(std::size_t bytes, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long capture = 0;
  cudaGraph_t graph = nullptr;
  check(cudaStreamGetCaptureInfo(stream, &status, &capture, &graph, nullptr, nullptr, nullptr),
        "cudaStreamGetCaptureInfo");
  const std::lock_guard lock(mutex_);
  if (status == cudaStreamCaptureStatusActive) return for_graph(captures_[{capture, stream}], bytes, graph);
  captures_.clear();
  Block& block = streams_[stream];
  if (block.bytes >= bytes) return block.memory;
  // Work already enqueued may still use the smaller block: it stays.
  block = pool_->take(bytes);
  return block.memory;
}

}  // namespace sparlow::cuda
