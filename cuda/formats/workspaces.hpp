// Device memory that forward passes share: one block per stream, and of its own for every CUDA graph, which may run at
// any later time on any stream. Zero when handed out for the first time; never moves while somebody may use it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace sparlow::cuda {

class Workspaces {
 public:
  // At least `bytes`, for work enqueued on `stream` of the current device. Throws Error(out_of_memory).
  void* get(std::size_t bytes, cudaStream_t stream);

 private:
  struct Block {
    void* memory = nullptr;
    std::size_t bytes = 0;
  };
  struct Pool;  // outlives this object while a graph holds a block

  void* for_graph(Block& block, std::size_t bytes, cudaGraph_t graph);

  std::mutex mutex_;
  std::map<cudaStream_t, Block> streams_;
  std::map<std::pair<unsigned long long, cudaStream_t>, Block> captures_;  // under way
  std::shared_ptr<Pool> pool_ = make_pool();

  static std::shared_ptr<Pool> make_pool();
};

}  // namespace sparlow::cuda
