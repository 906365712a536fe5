// Random numbers, and layers made of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device.hpp"
#include "sparlow/layer.hpp"

namespace sparlow::bench {

std::string_view name_of(DType dtype);         // "f32", "bf16", "f16"
DType parse_dtype(const std::string& text);    // throws Error(invalid_argument)
Format parse_format(const std::string& text);  // the same
std::int64_t bytes_of(DType dtype);            // of one element

// `count` numbers of [-1, 1) and never 0, as the bytes of `dtype`.
std::vector<std::byte> random_values(std::int64_t count, std::uint32_t seed, DType dtype);
double value_at(const std::byte* values, std::int64_t index, DType dtype);

// Bytes in a device's memory.
class Uploaded {
 public:
  Uploaded(Device& device, const std::vector<std::byte>& bytes)
      : memory_(device.allocate(static_cast<std::int64_t>(bytes.size()))) {
    device.upload(memory_.get(), bytes.data(), static_cast<std::int64_t>(bytes.size()));
  }
  void* data() const { return memory_.get(); }

 private:
  std::shared_ptr<void> memory_;
};

// A layer's tensors in the checkpoint's layout: half of the positions of s for nm24 and bitmap, all for dense.
struct RandomLayer {
  LayerShape shape;
  std::vector<std::byte> values, meta, u, v;

  LayerTensors tensors() const;
  std::int64_t bytes() const;  // that a forward pass has to read
  // Row `row` of s + u v.
  std::vector<double> dense_row(Index row) const;
};
// Throws Error(invalid_argument) for a d_in that nm24 or bitmap cannot have.
RandomLayer random_layer(Format format, DType dtype, Index d_out, Index d_in, Index rank, std::uint32_t seed);

}  // namespace sparlow::bench
