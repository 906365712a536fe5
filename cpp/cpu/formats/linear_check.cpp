#include "cpu/formats/linear_check.hpp"

#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>

#include "cpu/multiversion.hpp"
#include "cpu/parallel.hpp"
#include "sparlow/error.hpp"
#include "sparlow/format.hpp"

namespace sparlow::cpu {
namespace {

constexpr Index kMost = std::numeric_limits<std::int32_t>::max();

void check_shape(const LayerShape& shape) {
  const Index d_out = shape.d_out, d_in = shape.d_in;
  require(d_out >= 1 && d_in >= 1 && d_out <= kMost && d_in <= kMost, "a layer cannot be ", d_out, " x ", d_in);
  require(shape.rank >= 0 && shape.rank <= kMost, "the rank is ", shape.rank);
  require(shape.format != Format::nm24 || d_in % 4 == 0, "nm24 needs d_in divisible by 4, got ", d_in);
  const Index whole = shape.format == Format::nm24 ? d_out * (d_in / 2) : d_out * d_in;
  require(shape.format == Format::bitmap ? shape.stored >= 0 && shape.stored <= whole : shape.stored == whole, "a ",
          d_out, " x ", d_in, " layer cannot store ", shape.stored, " values in this format");
}

void check_memory(const void* memory, Index count, std::uintptr_t alignment, const char* name) {
  require(count == 0 || memory != nullptr, name, " has no memory");
  require(reinterpret_cast<std::uintptr_t>(memory) % alignment == 0, name,
          " starts at an address that is no multiple of ", alignment,
          ", the size of its elements; write the checkpoint again with sparlow.save");
}

void check_tensors(const LayerShape& shape, const LayerTensors& tensors) {
  const std::uintptr_t size = shape.dtype == DType::f32 ? 4 : 2;
  check_memory(tensors.values, shape.stored, size, "values");
  check_memory(tensors.u, shape.rank, size, "u");
  check_memory(tensors.v, shape.rank, size, "v");
  check_memory(tensors.bias, 0, size, "bias");
  check_memory(tensors.meta, shape.format == Format::dense ? 0 : 1, 1, "meta");
}

bool legal(unsigned nibble) { return (nibble & 3) < (nibble >> 2); }

// The first byte of positions that is not legal; meta_cols(d_in) if there is none.
Index first_illegal(const std::uint8_t* meta, Index d_in) {
  const Index groups = d_in / 4, bytes = meta_cols(d_in);
  for (Index b = 0; b < bytes; ++b) {
    const unsigned low = meta[b] & 15u, high = meta[b] >> 4u;
    if (!legal(low) || (2 * b + 1 < groups ? !legal(high) : high != 0)) return b;
  }
  return bytes;
}

void check_positions(const LayerShape& shape, const std::uint8_t* meta) {
  const Index bytes = meta_cols(shape.d_in);
  std::atomic<Index> bad{-1};
  parallel_for(shape.d_out, row_grain(bytes), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      if (first_illegal(meta + i * bytes, shape.d_in) != bytes) bad = i;
  });
  if (bad < 0) return;
  const Index row = bad, byte = first_illegal(meta + row * bytes, shape.d_in);
  fail(ErrorCode::invalid_argument, "illegal 2:4 positions ", int{meta[row * bytes + byte]}, " in meta[", row, ", ",
       byte, "]; each group of four needs two distinct ascending positions");
}

SPARLOW_MULTIVERSION Index marked(const std::uint8_t* row, Index bytes) {
  Index count = 0, b = 0;
  for (; b + 8 <= bytes; b += 8) {
    std::uint64_t word;
    std::memcpy(&word, row + b, sizeof word);
    count += std::popcount(word);
  }
  for (; b < bytes; ++b) count += std::popcount(row[b]);
  return count;
}

void check_last_columns(const LayerShape& shape, const std::uint8_t* meta) {
  const Index bytes = meta_cols(shape.d_in);
  if (shape.d_in % 8 == 0) return;
  for (Index i = 0; i < shape.d_out; ++i)
    require(meta[(i + 1) * bytes - 1] >> (shape.d_in % 8) == 0, "meta marks values beyond column ", shape.d_in - 1,
            " in row ", i);
}

std::vector<Index> bitmap_starts(const LayerShape& shape, const std::uint8_t* meta) {
  const Index bytes = meta_cols(shape.d_in);
  check_last_columns(shape, meta);
  std::vector<Index> starts(static_cast<std::size_t>(shape.d_out) + 1);
  // A torch operator keeps nothing between calls, so that this comes before every product.
  parallel_for(shape.d_out, row_grain(bytes), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) starts[static_cast<std::size_t>(i) + 1] = marked(meta + i * bytes, bytes);
  });
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  require(starts.back() == shape.stored, "the bitmap marks ", starts.back(), " values, ", shape.stored, " are stored");
  return starts;
}

}  // namespace

std::vector<Index> check_layer(const LayerShape& shape, const LayerTensors& tensors, bool positions) {
  check_shape(shape);
  check_tensors(shape, tensors);
  if (positions && shape.format == Format::nm24) check_positions(shape, tensors.meta);
  return shape.format == Format::bitmap ? bitmap_starts(shape, tensors.meta) : std::vector<Index>{};
}

}  // namespace sparlow::cpu
