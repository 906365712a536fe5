// Numbers of 16 bits on the host, without branches so that loops over them become vector code.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

#include "sparlow/sparlow.h"

// Compiles a loop for several instruction sets and picks one at load time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define LLAMA_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LLAMA_MULTIVERSION
#endif
#define LLAMA_INLINE inline __attribute__((always_inline))
#define LLAMA_INLINE_LAMBDA __attribute__((always_inline))

namespace llama {

struct Bf16 {
  std::uint16_t bits;
};
struct F16 {
  std::uint16_t bits;
};

LLAMA_INLINE float to_float(float x) { return x; }
LLAMA_INLINE float to_float(Bf16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
LLAMA_INLINE float to_float(F16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16;
  const float scaled = std::bit_cast<float>((x.bits & 0x7fffu) << 13) * 0x1p112f;  // subnormals come out right
  const std::uint32_t special = (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

// Round to nearest even.
template <class T>
T from_float(float x);
template <>
LLAMA_INLINE float from_float<float>(float x) {
  return x;
}
template <>
LLAMA_INLINE Bf16 from_float<Bf16>(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded)};
}
template <>
LLAMA_INLINE F16 from_float<F16>(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Adding 0.5 leaves a subnormal in the low bits, rounded by the adder.
  const std::uint32_t tiny = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t finite = magnitude < 0x38800000u ? tiny : normal;
  return {static_cast<std::uint16_t>((magnitude >= 0x477ff000u ? large : finite) | (bits >> 16 & 0x8000u))};
}

// x as a T holds it.
template <class T>
LLAMA_INLINE float rounded(float x) {
  return to_float(from_float<T>(x));
}

inline std::int64_t size_of(sparlow_dtype dtype) { return dtype == SPARLOW_F32 ? 4 : 2; }
const char* name_of(sparlow_dtype dtype);
// Of a config or command line: "float32", "bfloat16", "float16". Throws std::runtime_error for another word.
sparlow_dtype dtype_named(const std::string& name);
// Of safetensors: "F32", "BF16", "F16". Throws std::runtime_error naming the tensor.
sparlow_dtype dtype_of_tensor(const std::string& tensor, const std::string& dtype);

void convert(const void* from, sparlow_dtype from_type, void* to, sparlow_dtype to_type, std::int64_t count);

}  // namespace llama
