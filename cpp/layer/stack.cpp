#include "layer/stack.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "sparlow/error.hpp"

namespace sparlow {
namespace {

class CpuStack final : public Layer {
 public:
  explicit CpuStack(const std::vector<StackPart>& parts) : Layer(stack_shape(parts)) {
    for (const StackPart& part : parts) {
      parts_.push_back(make_cpu_layer(part.shape, part.tensors));
      widest_ = std::max(widest_, part.shape.d_out);
    }
  }

 protected:
  // First the output of one part, which only for one token may lie in y at once.
  std::int64_t do_workspace_bytes(Index tokens) const override {
    std::int64_t most = 0;
    for (const auto& part : parts_) most = std::max(most, part->workspace_bytes(tokens));
    return output_bytes(tokens) + most;
  }

  void do_forward(const void* x, void* y, Index tokens, void* workspace, LinearOps::Stream stream,
                  bool) const override {
    char *to = static_cast<char*>(y), *memory = static_cast<char*>(workspace) + output_bytes(tokens);
    for (const auto& part : parts_) {
      const Index width = part->shape().d_out * element_size();
      void* out = tokens == 1 ? static_cast<void*>(to) : workspace;
      part->forward(x, out, tokens, memory, part->workspace_bytes(tokens), stream);
      for (Index t = 0; tokens > 1 && t < tokens; ++t)
        std::memcpy(to + t * shape().d_out * element_size(), static_cast<char*>(workspace) + t * width,
                    static_cast<std::size_t>(width));
      to += width;
    }
  }

 private:
  Index element_size() const { return shape().dtype == DType::f32 ? 4 : 2; }
  std::int64_t output_bytes(Index tokens) const {
    return tokens == 1 ? 0 : (tokens * widest_ * element_size() + 63) / 64 * 64;
  }

  std::vector<std::unique_ptr<Layer>> parts_;
  Index widest_ = 0;
};

}  // namespace

LayerShape stack_shape(const std::vector<StackPart>& parts) {
  require(!parts.empty(), "a stack without layers");
  LayerShape out = parts[0].shape;
  for (std::size_t p = 1; p < parts.size(); ++p) {
    const LayerShape& shape = parts[p].shape;
    require(shape.d_in == out.d_in && shape.dtype == out.dtype, "layer ", p, " of a stack differs from the first in ",
            shape.d_in == out.d_in ? "dtype" : "d_in");
    out.d_out += shape.d_out, out.stored += shape.stored;
    out.rank = std::max(out.rank, shape.rank);
  }
  return out;
}

std::unique_ptr<Layer> make_cpu_stack(const std::vector<StackPart>& parts) { return std::make_unique<CpuStack>(parts); }

}  // namespace sparlow
