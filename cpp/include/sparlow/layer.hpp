// Compressed linear layers that run: y = x (s + u v)ᵀ + bias, s in any format, on the CPU from the checkpoint's own
// bytes (also mapped ones), on a GPU from a packed copy.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "sparlow/backend.hpp"
#include "sparlow/export.hpp"
#include "sparlow/linear.hpp"
#include "sparlow/view.hpp"

namespace sparlow {

struct LayerShape {
  Format format = Format::dense;
  DType dtype = DType::bf16;  // of values, factors, bias, x and y
  Index d_out = 0, d_in = 0, rank = 0;
  Index stored = 0;  // values of s that are stored; must be d_out d_in / 2 for nm24 and d_out d_in for dense
};

// The checkpoint's layout (format.hpp), contiguous, host memory: `stored` values; meta [d_out, ceil(d_in / 8)], not
// looked at for dense; u [d_out, rank] and v [rank, d_in], not looked at when the rank is 0; bias [d_out] or null.
struct LayerTensors {
  const void* values = nullptr;
  const std::uint8_t* meta = nullptr;
  const void *u = nullptr, *v = nullptr, *bias = nullptr;
};

// Const and re-entrant: threads may share one.
class SPARLOW_API Layer {
 public:
  virtual ~Layer() = default;
  const LayerShape& shape() const { return shape_; }
  // Bytes of host memory that `forward` of so many tokens needs, starting at a multiple of 64; 0 on a GPU.
  std::int64_t workspace_bytes(Index tokens) const;
  // x [tokens, d_in], y [tokens, d_out]: contiguous, in the layer's dtype, in the device's memory, not overlapping.
  // Allocates nothing (on a GPU: once a number of tokens was seen). The stream is looked at on a GPU only.
  // Throws Error(invalid_argument) for missing memory.
  void forward(const void* x, void* y, Index tokens, void* workspace, std::int64_t workspace_bytes,
               LinearOps::Stream stream) const;

 protected:
  explicit Layer(const LayerShape& shape) : shape_(shape) {}
  virtual std::int64_t do_workspace_bytes(Index tokens) const = 0;
  virtual void do_forward(const void* x, void* y, Index tokens, void* workspace, LinearOps::Stream stream) const = 0;

 private:
  LayerShape shape_;
};

// Keeps the addresses, not copies: the tensors must outlive the layer. Throws Error(invalid_argument) for impossible
// shapes, for illegal positions and for a bitmap that does not mark exactly the stored values. Without `check`, for
// positions that were checked before, illegal ones of nm24 go unnoticed (and give a wrong y, nothing worse).
SPARLOW_API std::unique_ptr<Layer> make_cpu_layer(const LayerShape& shape, const LayerTensors& tensors,
                                                  bool check = true);
// Copies to a GPU and packs there, on the backend's stream, and waits. Throws Error(unavailable) for what has no kernel
// there: formats other than nm24, float32.
SPARLOW_API std::unique_ptr<Layer> make_device_layer(std::shared_ptr<Backend> backend, std::shared_ptr<LinearOps> ops,
                                                     LinearOps::Stream stream, const LayerShape& shape,
                                                     const LayerTensors& tensors);

SPARLOW_API std::string_view name_of(Format format);

}  // namespace sparlow
