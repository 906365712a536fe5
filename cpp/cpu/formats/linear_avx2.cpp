// Rows with AVX2: eight columns at a time, stored values are spread by a table of shuffles.
#include <array>

#include "cpu/formats/convert.hpp"
#include "cpu/formats/linear_rows.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

namespace sparlow::cpu {
namespace {

// Which stored value belongs to each of eight columns; 128: none, which also makes a byte shuffle write zero.
using Places = std::array<std::array<std::uint8_t, 8>, 256>;
constexpr Places make_places() {
  Places table{};
  for (unsigned mask = 0; mask < 256; ++mask)
    for (unsigned i = 0, next = 0; i < 8; ++i) table[mask][i] = mask >> i & 1 ? static_cast<std::uint8_t>(next++) : 128;
  return table;
}
// The same for the two bytes of a 16-bit value.
using BytePlaces = std::array<std::array<std::uint8_t, 16>, 256>;
constexpr BytePlaces make_byte_places() {
  BytePlaces table{};
  for (unsigned mask = 0; mask < 256; ++mask)
    for (unsigned i = 0; i < 16; ++i) {
      const std::uint8_t place = make_places()[mask][i / 2];
      table[mask][i] = place == 128 ? 128 : static_cast<std::uint8_t>(2 * place + i % 2);
    }
  return table;
}
}  // namespace
}  // namespace sparlow::cpu

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,popcnt")

namespace sparlow::cpu {
namespace {

alignas(64) constexpr Places kPlaces = make_places();

struct Wide {
  using Input = float;
  using Acc = __m256;
  using Weights = __m256;
  static constexpr int kParts = 1;
  static constexpr Index kColumns = 8;

  static Acc zero() { return _mm256_setzero_ps(); }
  static Acc plus(Acc a, Acc b) { return _mm256_add_ps(a, b); }
  static float sum(Acc acc) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static unsigned mask(const std::uint8_t* masks) { return masks[0]; }
  static void store(Weights weights, Input* out) { _mm256_storeu_ps(out, weights); }
  static Weights reload(const Input* weights) { return _mm256_loadu_ps(weights); }
  static void multiply(Acc& acc, Weights weights, const Input* x) {
    acc = _mm256_fmadd_ps(weights, _mm256_loadu_ps(x), acc);
  }

  // Nibble -> bits of its two positions; 0, which no group has, -> none.
  static void masks_of_nibbles(const std::uint8_t* meta, Index bytes, std::uint8_t* masks) {
    const __m128i low = _mm_setr_epi8(0, 3, 5, 9, 3, 2, 6, 10, 5, 6, 4, 12, 9, 10, 12, 8);
    const __m128i high = _mm_slli_epi16(low, 4), nibble = _mm_set1_epi8(15);
    for (Index i = 0; i < bytes; i += 16) {
      alignas(16) std::uint8_t piece[16] = {};
      const Index count = bytes - i < 16 ? bytes - i : 16;
      for (Index k = 0; k < count; ++k) piece[k] = meta[i + k];
      const __m128i packed = _mm_load_si128(reinterpret_cast<const __m128i*>(piece));
      const __m128i first = _mm_shuffle_epi8(low, _mm_and_si128(packed, nibble));
      const __m128i second = _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi16(packed, 4), nibble));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(masks + i), _mm_or_si128(first, second));
    }
  }

  // Eight elements, also where fewer may be read.
  template <typename T>
  static const T* readable(const T* values, Index left, T* copy) {
    if (left >= 8) return values;
    for (Index i = 0; i < left; ++i) copy[i] = values[i];
    return copy;
  }
};

struct F32Lane : Wide {
  using Element = float;
  static Weights load(const Element* values, Index columns) {
    Element copy[8] = {};
    return _mm256_loadu_ps(readable(values, columns, copy));
  }
  static Weights whole(const Element* values) { return _mm256_loadu_ps(values); }
  static Weights spread(__m256 stored, unsigned mask) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces[mask].data()));
    const __m256i places = _mm256_cvtepi8_epi32(bytes);  // negative: none
    const __m256 moved = _mm256_permutevar8x32_ps(stored, places);
    return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(places, 31)), moved);
  }
  static Weights expand_half(const Element* values, unsigned mask) {
    return spread(_mm256_castps128_ps256(_mm_loadu_ps(values)), mask);
  }
  static Weights expand(const Element* values, Index left, unsigned mask) { return spread(load(values, left), mask); }
};

alignas(64) constexpr BytePlaces kBytePlaces = make_byte_places();

template <class T>
struct ShortLane : Wide {
  using Element = T;
  static __m128i bits(const Element* values, Index left) {
    Element copy[8] = {};
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(readable(values, left, copy)));
  }
  static Weights widen(__m128i bits) {
    if constexpr (__is_same(T, F16)) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Weights load(const Element* values, Index columns) { return widen(bits(values, columns)); }
  static Weights whole(const Element* values) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  }
  static Weights spread(__m128i stored, unsigned mask) {
    const __m128i places = _mm_load_si128(reinterpret_cast<const __m128i*>(kBytePlaces[mask].data()));
    return widen(_mm_shuffle_epi8(stored, places));
  }
  static Weights expand_half(const Element* values, unsigned mask) {
    return spread(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(values)), mask);
  }
  static Weights expand(const Element* values, Index left, unsigned mask) { return spread(bits(values, left), mask); }
};

}  // namespace
}  // namespace sparlow::cpu

#include "cpu/formats/linear_kernels.hpp"

#pragma GCC pop_options

namespace sparlow::cpu {

const RowKernels* avx2_rows() {
  static const bool usable = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                             __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  if (!usable) return nullptr;
  static const RowKernels kernels = table<ShortLane<Bf16>, ShortLane<F16>, F32Lane>("avx2");
  return &kernels;
}

}  // namespace sparlow::cpu
#else

const sparlow::cpu::RowKernels* sparlow::cpu::avx2_rows() { return nullptr; }
#endif
