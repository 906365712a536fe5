// Linear layers that stay compressed while they run: y = x (s + u v)ᵀ + bias with s 2:4 (format nm24).
//
// A device has a layout of its own for the four tensors of a checkpoint. `pack` fills one buffer with it, `unpack`
// gives back the checkpoint's bits. Calls only enqueue work on `stream`, allocate nothing once a number of tokens was
// seen, and may be captured in a CUDA graph.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "sparlow/export.hpp"
#include "sparlow/view.hpp"

namespace sparlow {

struct LinearShape {
  Index d_out = 0, d_in = 0, rank = 0;
  DType dtype = DType::bf16;  // of values, factors, bias, x and y; packed layers are bf16 or f16
};

// The checkpoint's layout (format.hpp), contiguous: values [d_out, d_in / 2], meta [d_out, ceil(d_in / 8)],
// u [d_out, rank], v [rank, d_in]; u and v are not looked at when the rank is 0.
struct LinearTensors {
  void* values = nullptr;
  std::uint8_t* meta = nullptr;
  void *u = nullptr, *v = nullptr;
};

// Of one device. Calls on different streams may come from different threads.
class SPARLOW_API LinearOps {
 public:
  using Stream = std::uintptr_t;  // a native stream handle
  virtual ~LinearOps() = default;

  // Of the buffer `pack` fills. Throws Error(invalid_argument) for a shape or dtype without a packed form.
  std::int64_t packed_bytes(const LinearShape& shape) const;
  void pack(const LinearShape& shape, const LinearTensors& from, void* packed, Stream stream) const;
  void unpack(const LinearShape& shape, const void* packed, const LinearTensors& to, Stream stream) const;
  // x [tokens, d_in], y [tokens, d_out], bias [d_out] or null: contiguous, x at a multiple of 8 bytes.
  void forward(const LinearShape& shape, const void* packed, const void* bias, const void* x, void* y, Index tokens,
               Stream stream);
  // Which kernel runs so many tokens, for reports.
  std::string_view kernel(const LinearShape& shape, Index tokens) const;

 protected:
  virtual std::int64_t do_packed_bytes(const LinearShape& shape) const = 0;
  virtual void do_pack(const LinearShape& shape, const LinearTensors& from, void* packed, Stream stream) const = 0;
  virtual void do_unpack(const LinearShape& shape, const void* packed, const LinearTensors& to,
                         Stream stream) const = 0;
  virtual void do_forward(const LinearShape& shape, const void* packed, const void* bias, const void* x, void* y,
                          Index tokens, Stream stream) = 0;
  virtual std::string_view do_kernel(const LinearShape& shape, Index tokens) const = 0;
};

// device: "cuda" or "cuda:N". Throws Error(unavailable) where layers cannot run packed, and says why.
SPARLOW_API std::unique_ptr<LinearOps> make_linear_ops(std::string_view device);

}  // namespace sparlow
