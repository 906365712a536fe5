// Linear layers that stay compressed while they run: y = x (s + (us vs) ∘ signs + u v)ᵀ + bias, s in the format nm24 or
// bitmap, signs ±1, either low-rank factor of any rank.
//
// A device has a layout of its own for the tensors of a checkpoint. `pack` fills one buffer with it, `unpack` gives
// back the checkpoint's bits. Layers in nm24 without signs that read the same x may be stacked: parts of one buffer,
// one launch. Calls only enqueue work on `stream`, allocate nothing once a number of tokens was seen, and may be
// captured in a CUDA graph; packing a bitmap waits for the stream.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "sparlow/export.hpp"
#include "sparlow/view.hpp"

namespace sparlow {

enum class Format { nm24, bitmap, dense };

struct LinearShape {
  static constexpr int kMaxParts = 4;

  Index d_out = 0, d_in = 0;
  Index rank = 0;             // of u v; of parts, the largest: narrower factors are padded with zeros
  DType dtype = DType::bf16;  // of values, factors, bias, x and y; packed layers are bf16 or f16
  Format format = Format::nm24;
  Index stored = 0;     // values of a bitmap
  Index sign_rank = 0;  // of us vs; 0: no signs
  int parts = 1;
  std::array<Index, kMaxParts> rows{};  // of more parts than one; each but the last a multiple of 32

  Index part_rows(int part) const { return parts == 1 ? d_out : rows[static_cast<std::size_t>(part)]; }
};

// The checkpoint's layout (format.hpp) of one part, contiguous: values [rows, d_in / 2] or [stored], meta and sign_bits
// [rows, ceil(d_in / 8)], u [rows, rank], v [rank, d_in], and the same of the signs. What has no elements is not looked
// at.
struct LinearTensors {
  void* values = nullptr;
  std::uint8_t* meta = nullptr;
  void *u = nullptr, *v = nullptr;
  std::uint8_t* sign_bits = nullptr;
  void *sign_u = nullptr, *sign_v = nullptr;
};

// Of one device. Calls on different streams may come from different threads.
class SPARLOW_API LinearOps {
 public:
  using Stream = std::uintptr_t;  // a native stream handle
  static constexpr int kAllParts = -1;
  virtual ~LinearOps() = default;

  // Of the buffer `pack` fills. Throws Error(invalid_argument) for a shape or dtype without a packed form.
  std::int64_t packed_bytes(const LinearShape& shape) const;
  // rank: columns of from.u, at most the shape's.
  void pack(const LinearShape& shape, int part, Index rank, const LinearTensors& from, void* packed,
            Stream stream) const;
  // to.u and to.v have the shape's rank.
  void unpack(const LinearShape& shape, int part, const void* packed, const LinearTensors& to, Stream stream) const;
  // x [tokens, d_in], y [tokens, d_out], bias [d_out] or null: contiguous, x at a multiple of 8 bytes. Of one part, y
  // and bias have its rows.
  void forward(const LinearShape& shape, int part, const void* packed, const void* bias, const void* x, void* y,
               Index tokens, Stream stream);
  // w [d_out, d_in] = s + (us vs) ∘ signs, summed in float and rounded once; of shapes with a bitmap or signs.
  void expand(const LinearShape& shape, const void* packed, void* w, Stream stream) const;
  // With more tokens `expand` and a dense product are faster than `forward`.
  Index most_tokens(const LinearShape& shape) const;
  // Which kernel runs so many tokens, for reports.
  std::string_view kernel(const LinearShape& shape, Index tokens) const;

 protected:
  virtual std::int64_t do_packed_bytes(const LinearShape& shape) const = 0;
  virtual void do_pack(const LinearShape& shape, int part, Index rank, const LinearTensors& from, void* packed,
                       Stream stream) const = 0;
  virtual void do_unpack(const LinearShape& shape, int part, const void* packed, const LinearTensors& to,
                         Stream stream) const = 0;
  virtual void do_forward(const LinearShape& shape, int part, const void* packed, const void* bias, const void* x,
                          void* y, Index tokens, Stream stream) = 0;
  virtual void do_expand(const LinearShape& shape, const void* packed, void* w, Stream stream) const = 0;
  virtual Index do_most_tokens(const LinearShape& shape) const = 0;
  virtual std::string_view do_kernel(const LinearShape& shape, Index tokens) const = 0;
};

// device: "cuda" or "cuda:N". Throws Error(unavailable) where layers cannot run packed, and says why.
SPARLOW_API std::unique_ptr<LinearOps> make_linear_ops(std::string_view device);

}  // namespace sparlow
