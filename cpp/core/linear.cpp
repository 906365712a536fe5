#include "sparlow/linear.hpp"

#include <limits>
#include <numeric>

#include "sparlow/error.hpp"

namespace sparlow {
namespace {

constexpr Index kMost = std::numeric_limits<std::int32_t>::max();
constexpr Index kPartRows = 32;  // rows of a part but the last come in so many

bool is_plain(const LinearShape& shape) { return shape.format == Format::nm24 && shape.sign_rank == 0; }

void check_parts(const LinearShape& shape) {
  require(shape.parts >= 1 && shape.parts <= LinearShape::kMaxParts, "a stack has 1 to ", LinearShape::kMaxParts,
          " parts, got ", shape.parts);
  if (shape.parts == 1) return;
  require(is_plain(shape), "only layers in nm24 without signs can be stacked");
  for (int p = 0; p < shape.parts; ++p)
    require(shape.part_rows(p) >= 1 && (p + 1 == shape.parts || shape.part_rows(p) % kPartRows == 0), "part ", p,
            " of a stack has ", shape.part_rows(p), " rows; each but the last must have a multiple of ", kPartRows);
  require(std::accumulate(shape.rows.begin(), shape.rows.begin() + shape.parts, Index{0}) == shape.d_out,
          "the parts of a stack do not add up to ", shape.d_out, " rows");
}

void check(const LinearShape& shape) {
  require(shape.d_out >= 1 && shape.d_in >= 1 && shape.d_out <= kMost && shape.d_in <= kMost,
          "a packed layer needs at least one row and one column, got ", shape.d_out, " x ", shape.d_in);
  require(shape.d_in % 4 == 0, "a packed layer needs d_in a multiple of 4, got ", shape.d_out, " x ", shape.d_in);
  require(shape.rank >= 0 && shape.rank <= kMost, "the rank is ", shape.rank);
  require(shape.sign_rank >= 0 && shape.sign_rank <= kMost, "the rank of the signed term is ", shape.sign_rank);
  require(shape.format != Format::dense, "a dense layer has no packed form");
  require(shape.stored >= 0 && shape.stored <= shape.d_out * shape.d_in, "a bitmap of ", shape.d_out, " x ", shape.d_in,
          " cannot have ", shape.stored, " values");
  require(shape.dtype != DType::f32, "a packed layer is bfloat16 or float16, not float32");
  check_parts(shape);
}

void check(const LinearShape& shape, int part, const LinearTensors& tensors, const void* packed) {
  check(shape);
  require(part >= 0 && part < shape.parts, "part ", part, " of a stack of ", shape.parts);
  const bool has_values = shape.format == Format::nm24 || shape.stored > 0;
  require((!has_values || tensors.values != nullptr) && tensors.meta != nullptr && packed != nullptr,
          "a tensor has no memory");
  require(shape.rank == 0 || (tensors.u != nullptr && tensors.v != nullptr), "a factor has no memory");
  require(
      shape.sign_rank == 0 || (tensors.sign_bits != nullptr && tensors.sign_u != nullptr && tensors.sign_v != nullptr),
      "a part of the signed term has no memory");
  require(reinterpret_cast<std::uintptr_t>(packed) % 128 == 0, "the packed buffer must start at a multiple of 128");
}

}  // namespace

std::int64_t LinearOps::packed_bytes(const LinearShape& shape) const {
  check(shape);
  return do_packed_bytes(shape);
}

void LinearOps::pack(const LinearShape& shape, int part, Index rank, const LinearTensors& from, void* packed,
                     Stream stream) const {
  require(rank >= 0 && rank <= shape.rank, "a part of rank ", rank, " does not fit a stack of rank ", shape.rank);
  LinearShape narrow = shape;
  narrow.rank = rank;
  check(narrow, part, from, packed);
  do_pack(shape, part, rank, from, packed, stream);
}

void LinearOps::unpack(const LinearShape& shape, int part, const void* packed, const LinearTensors& to,
                       Stream stream) const {
  check(shape, part, to, packed);
  do_unpack(shape, part, packed, to, stream);
}

void LinearOps::forward(const LinearShape& shape, int part, const void* packed, const void* bias, const void* x,
                        void* y, Index tokens, Stream stream) {
  check(shape);
  require(part >= kAllParts && part < shape.parts, "part ", part, " of a stack of ", shape.parts);
  require(tokens >= 0 && tokens <= kMost / 256, "the number of tokens is ", tokens);
  if (tokens == 0) return;
  require(packed != nullptr && x != nullptr && y != nullptr, "a tensor has no memory");
  require(reinterpret_cast<std::uintptr_t>(x) % 8 == 0, "x must start at a multiple of 8 bytes");
  do_forward(shape, part, packed, bias, x, y, tokens, stream);
}

void LinearOps::expand(const LinearShape& shape, const void* packed, void* w, Stream stream) const {
  check(shape);
  require(!is_plain(shape), "a layer in nm24 without signs runs any number of tokens packed");
  require(packed != nullptr && w != nullptr, "a tensor has no memory");
  do_expand(shape, packed, w, stream);
}

Index LinearOps::most_tokens(const LinearShape& shape) const {
  check(shape);
  return do_most_tokens(shape);
}

std::string_view LinearOps::kernel(const LinearShape& shape, Index tokens) const {
  check(shape);
  return do_kernel(shape, tokens);
}

}  // namespace sparlow
