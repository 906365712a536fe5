#include "tensors.hpp"

#include <array>
#include <cstring>

#include "sparlow/error.hpp"
#include "sparlow/format.hpp"

namespace sparlow::bench {
namespace {

constexpr std::array<std::string_view, 3> kDTypes{"f32", "bf16", "f16"};
constexpr std::array<Format, 3> kFormats{Format::nm24, Format::bitmap, Format::dense};

std::uint32_t next(std::uint32_t& state) { return state = state * 1664525u + 1013904223u; }

std::uint16_t narrow(float value, DType dtype) {
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  if (dtype == DType::bf16) return static_cast<std::uint16_t>(word >> 16);
  const auto half = static_cast<_Float16>(value);
  std::uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

// Positions of two kept entries of four, as a nibble.
constexpr std::array<std::uint8_t, 6> kPairs{0b0100, 0b1000, 0b1100, 0b1001, 0b1101, 0b1110};

// A byte covers eight columns; those past the end are zero.
std::uint8_t random_meta(Format format, Index columns, std::uint32_t& state) {
  const std::uint8_t low = kPairs[(next(state) >> 8) % 6], high = columns > 4 ? kPairs[(next(state) >> 8) % 6] : 0;
  const auto nibbles = static_cast<std::uint8_t>(low | high << 4);
  if (format == Format::nm24) return nibbles;
  const auto bits = [](unsigned nibble) { return 1u << (nibble & 3) | 1u << (nibble >> 2); };
  return static_cast<std::uint8_t>(bits(low) | (columns > 4 ? bits(high) << 4 : 0));
}

}  // namespace

std::string_view name_of(DType dtype) { return kDTypes.at(static_cast<std::size_t>(dtype)); }

DType parse_dtype(const std::string& text) {
  for (std::size_t i = 0; i < kDTypes.size(); ++i)
    if (kDTypes[i] == text) return static_cast<DType>(i);
  fail(ErrorCode::invalid_argument, "unknown dtype '", text, "'; accepted: f32, bf16, f16");
}

Format parse_format(const std::string& text) {
  for (const Format format : kFormats)
    if (sparlow::name_of(format) == text) return format;
  fail(ErrorCode::invalid_argument, "unknown format '", text, "'; accepted: nm24, bitmap, dense");
}

std::int64_t bytes_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

std::vector<std::byte> random_values(std::int64_t count, std::uint32_t seed, DType dtype) {
  std::vector<std::byte> out(static_cast<std::size_t>(count * bytes_of(dtype)));
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = (static_cast<float>(next(seed) >> 16) + 0.5f) / 32768.0f - 1.0f;
    if (dtype == DType::f32) std::memcpy(&out[static_cast<std::size_t>(4 * i)], &value, 4);
    const std::uint16_t bits = narrow(value, dtype);
    if (dtype != DType::f32) std::memcpy(&out[static_cast<std::size_t>(2 * i)], &bits, 2);
  }
  return out;
}

double value_at(const std::byte* values, std::int64_t index, DType dtype) {
  float value;
  std::uint16_t bits;
  if (dtype == DType::f32) {
    std::memcpy(&value, values + 4 * index, 4);
    return value;
  }
  std::memcpy(&bits, values + 2 * index, 2);
  if (dtype == DType::bf16) {
    const std::uint32_t word = std::uint32_t{bits} << 16;
    std::memcpy(&value, &word, 4);
    return value;
  }
  _Float16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<double>(half);
}

RandomLayer random_layer(Format format, DType dtype, Index d_out, Index d_in, Index rank, std::uint32_t seed) {
  const bool dense = format == Format::dense;
  require(dense || d_in % 4 == 0, "format ", sparlow::name_of(format), " of this bench needs d_in divisible by 4, got ",
          d_in);
  RandomLayer layer;
  layer.shape = {format, dtype, d_out, d_in, rank, dense ? d_out * d_in : d_out * d_in / 2};
  layer.values = random_values(layer.shape.stored, seed, dtype);
  layer.u = random_values(d_out * rank, seed + 1, dtype);
  layer.v = random_values(rank * d_in, seed + 2, dtype);
  if (dense) return layer;
  std::uint32_t state = seed + 3;
  layer.meta.reserve(static_cast<std::size_t>(d_out * meta_cols(d_in)));
  for (Index i = 0; i < d_out; ++i)
    for (Index j = 0; j < d_in; j += 8)
      layer.meta.push_back(static_cast<std::byte>(random_meta(format, d_in - j, state)));
  return layer;
}

LayerTensors RandomLayer::tensors() const {
  return {values.data(), reinterpret_cast<const std::uint8_t*>(meta.data()), u.data(), v.data(), nullptr};
}

std::int64_t RandomLayer::bytes() const {
  return static_cast<std::int64_t>(values.size() + meta.size() + u.size() + v.size());
}

std::vector<double> RandomLayer::dense_row(Index row) const {
  const Index kept = shape.stored / shape.d_out, positions = meta_cols(shape.d_in);
  const auto size = static_cast<int>(bytes_of(shape.dtype));
  const std::byte* from = values.data() + row * kept * size;
  const auto* where = reinterpret_cast<const std::uint8_t*>(meta.data()) + row * positions;
  std::vector<std::byte> s(static_cast<std::size_t>(shape.d_in * size));
  if (shape.format == Format::nm24) nm24_unpack(from, where, 1, shape.d_in, size, s.data());
  else if (shape.format == Format::bitmap) bitmap_unpack(from, kept, where, 1, shape.d_in, size, s.data());
  else std::memcpy(s.data(), from, s.size());
  std::vector<double> out(static_cast<std::size_t>(shape.d_in));
  for (Index j = 0; j < shape.d_in; ++j) {
    double sum = value_at(s.data(), j, shape.dtype);
    for (Index k = 0; k < shape.rank; ++k)
      sum +=
          value_at(u.data(), row * shape.rank + k, shape.dtype) * value_at(v.data(), k * shape.d_in + j, shape.dtype);
    out[static_cast<std::size_t>(j)] = sum;
  }
  return out;
}

}  // namespace sparlow::bench
