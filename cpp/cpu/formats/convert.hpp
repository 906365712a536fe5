// Numbers of 16 bits, without branches so that loops over them become vector code.
#pragma once

#include <bit>
#include <cstdint>

namespace sparlow::cpu {
namespace {  // each file compiles its own copy, for its own instruction set

struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
inline float to_float(F16 x) {
  const std::uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;  // exponent bias 127 - 15; subnormals come out right
  const std::uint32_t special = (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

// Round to nearest even.
inline void from_float(float x, float& out) { out = x; }
inline void from_float(float x, Bf16& out) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  out.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded);
}
inline void from_float(float x, F16& out) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffffu;
  // Normal numbers: rebias and round. Smaller ones: adding 0.5 leaves the result in the low bits, rounded by the adder.
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  const std::uint32_t tiny = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t finite = magnitude < 0x38800000u ? tiny : normal;
  out.bits = static_cast<std::uint16_t>((magnitude >= 0x477ff000u ? large : finite) | (bits >> 16 & 0x8000u));
}

}  // namespace
}  // namespace sparlow::cpu
