// The rows of a call on their way to the GPU.
#pragma once

#include "cuda_ops.hpp"
#include "cuda_support.hpp"
#include "model.hpp"

namespace llama::cuda {

// Numbers of a call, in the order of the fields: tokens, slots, positions, wanted rows.
class Table {
 public:
  Table(int rows, int wanted)
      : rows_(rows),
        wanted_(wanted),
        host_((3 * rows + wanted) * std::int64_t{sizeof(int)}),
        device_((3 * rows + wanted) * std::int64_t{sizeof(int)}) {}

  void set(int index, const Row& row) {
    int* all = host_.as<int>();
    all[index] = row.token, all[rows_ + index] = row.slot, all[2 * rows_ + index] = row.position;
  }
  void set_wanted(int index, int row) { host_.as<int>()[3 * rows_ + index] = row; }
  void upload(cudaStream_t stream) const {
    const auto bytes = static_cast<std::size_t>(3 * rows_ + wanted_) * sizeof(int);
    check(cudaMemcpyAsync(device_.data(), host_.as<int>(), bytes, cudaMemcpyHostToDevice, stream),
          "copying tokens to the GPU");
  }
  RowTable rows(int count) const {
    const int* all = device_.as<int>();
    return {all, all + rows_, all + 2 * rows_, count};
  }
  const int* wanted() const { return device_.as<int>() + 3 * rows_; }

 private:
  int rows_, wanted_;
  PinnedMemory host_;
  DeviceMemory device_;
};

}  // namespace llama::cuda
