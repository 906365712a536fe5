#include "sparlow/linear.hpp"

#include <limits>

#include "sparlow/error.hpp"

namespace sparlow {
namespace {

constexpr Index kMost = std::numeric_limits<std::int32_t>::max();

void check(const LinearShape& shape) {
  require(shape.d_out >= 1 && shape.d_in >= 4 && shape.d_in % 4 == 0 && shape.d_out <= kMost && shape.d_in <= kMost,
          "a packed layer needs d_out >= 1 and d_in a multiple of 4, got ", shape.d_out, " x ", shape.d_in);
  require(shape.rank >= 0 && shape.rank <= kMost, "the rank is ", shape.rank);
  require(shape.dtype != DType::f32, "a packed layer is bfloat16 or float16, not float32");
}

void check(const LinearShape& shape, const LinearTensors& tensors, const void* packed) {
  check(shape);
  require(tensors.values != nullptr && tensors.meta != nullptr && packed != nullptr, "a tensor has no memory");
  require(shape.rank == 0 || (tensors.u != nullptr && tensors.v != nullptr), "a factor has no memory");
  require(reinterpret_cast<std::uintptr_t>(packed) % 128 == 0, "the packed buffer must start at a multiple of 128");
}

}  // namespace

std::int64_t LinearOps::packed_bytes(const LinearShape& shape) const {
  check(shape);
  return do_packed_bytes(shape);
}

void LinearOps::pack(const LinearShape& shape, const LinearTensors& from, void* packed, Stream stream) const {
  check(shape, from, packed);
  do_pack(shape, from, packed, stream);
}

void LinearOps::unpack(const LinearShape& shape, const void* packed, const LinearTensors& to, Stream stream) const {
  check(shape, to, packed);
  do_unpack(shape, packed, to, stream);
}

void LinearOps::forward(const LinearShape& shape, const void* packed, const void* bias, const void* x, void* y,
                        Index tokens, Stream stream) {
  check(shape);
  require(tokens >= 0 && tokens <= kMost / 256, "the number of tokens is ", tokens);
  if (tokens == 0) return;
  require(packed != nullptr && x != nullptr && y != nullptr, "a tensor has no memory");
  require(reinterpret_cast<std::uintptr_t>(x) % 8 == 0, "x must start at a multiple of 8 bytes");
  do_forward(shape, packed, bias, x, y, tokens, stream);
}

std::string_view LinearOps::kernel(const LinearShape& shape, Index tokens) const {
  check(shape);
  return do_kernel(shape, tokens);
}

}  // namespace sparlow
