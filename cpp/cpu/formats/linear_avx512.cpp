// Rows with AVX-512: stored values are spread by `expand`, bfloat16 is multiplied in pairs.
#include "cpu/formats/convert.hpp"
#include "cpu/formats/linear_rows.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx512bf16")

namespace sparlow::cpu {
namespace {

// The lowest `count` of 32 bits.
inline __mmask32 lowest(Index count) { return count >= 32 ? ~0u : _bzhi_u32(~0u, static_cast<unsigned>(count)); }

struct Wide {
  using Acc = __m512;
  static Acc zero() { return _mm512_setzero_ps(); }
  static Acc plus(Acc a, Acc b) { return _mm512_add_ps(a, b); }
  static float sum(Acc acc) { return _mm512_reduce_add_ps(acc); }

  // Nibble -> bits of its two positions; 0, which no group has, -> none.
  static void masks_of_nibbles(const std::uint8_t* meta, Index bytes, std::uint8_t* masks) {
    const __m512i low = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 3, 5, 9, 3, 2, 6, 10, 5, 6, 4, 12, 9, 10, 12, 8));
    const __m512i high = _mm512_slli_epi16(low, 4), nibble = _mm512_set1_epi8(15);
    for (Index i = 0; i < bytes; i += 64) {
      const Index left = bytes - i;
      const __mmask64 some = left >= 64 ? ~0ull : _bzhi_u64(~0ull, static_cast<unsigned>(left));
      const __m512i packed = _mm512_maskz_loadu_epi8(some, meta + i);
      const __m512i first = _mm512_shuffle_epi8(low, _mm512_and_si512(packed, nibble));
      const __m512i second = _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16(packed, 4), nibble));
      _mm512_storeu_si512(masks + i, _mm512_or_si512(first, second));
    }
  }
};

struct Bf16Lane : Wide {
  using Element = Bf16;
  using Input = Bf16;
  using Weights = __m512i;
  static constexpr int kParts = 2;
  static constexpr Index kColumns = 32;

  static std::uint32_t mask(const std::uint8_t* masks) {
    std::uint32_t mask;
    __builtin_memcpy(&mask, masks, sizeof mask);
    return mask;
  }
  static Weights load(const Element* values, Index columns) {
    return _mm512_maskz_loadu_epi16(lowest(columns), values);
  }
  static Weights whole(const Element* values) { return _mm512_loadu_si512(values); }
  static Weights expand_half(const Element* values, std::uint32_t mask) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    return _mm512_maskz_expand_epi16(mask, _mm512_castsi256_si512(half));
  }
  static Weights expand(const Element* values, Index left, std::uint32_t mask) {
    const __m512i dense = left >= kColumns ? whole(values) : load(values, left);
    return _mm512_maskz_expand_epi16(mask, dense);
  }
  static void store(Weights weights, Input* out) { _mm512_storeu_si512(out, weights); }
  static Weights reload(const Input* weights) { return _mm512_loadu_si512(weights); }
  static void multiply(Acc& acc, Weights weights, const Input* x) {
    acc = _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(weights), reinterpret_cast<__m512bh>(_mm512_loadu_si512(x)));
  }
};

struct FloatWide : Wide {
  using Input = float;
  using Weights = __m512;
  static constexpr int kParts = 1;
  static constexpr Index kColumns = 16;

  static std::uint32_t mask(const std::uint8_t* masks) { return masks[0] | static_cast<std::uint32_t>(masks[1]) << 8; }
  static void store(Weights weights, Input* out) { _mm512_storeu_ps(out, weights); }
  static Weights reload(const Input* weights) { return _mm512_loadu_ps(weights); }
  static void multiply(Acc& acc, Weights weights, const Input* x) {
    acc = _mm512_fmadd_ps(weights, _mm512_loadu_ps(x), acc);
  }
};

struct F32Lane : FloatWide {
  using Element = float;
  static Weights load(const Element* values, Index columns) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(lowest(columns)), values);
  }
  static Weights whole(const Element* values) { return _mm512_loadu_ps(values); }
  static Weights expand_half(const Element* values, std::uint32_t mask) {
    return _mm512_maskz_expand_ps(static_cast<__mmask16>(mask), _mm512_castps256_ps512(_mm256_loadu_ps(values)));
  }
  static Weights expand(const Element* values, Index left, std::uint32_t mask) {
    return _mm512_maskz_expand_ps(static_cast<__mmask16>(mask), left >= kColumns ? whole(values) : load(values, left));
  }
};

struct F16Lane : FloatWide {
  using Element = F16;
  static Weights load(const Element* values, Index columns) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(lowest(columns)), values));
  }
  static Weights whole(const Element* values) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  }
  static Weights expand_half(const Element* values, std::uint32_t mask) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    const __m256i spread = _mm256_maskz_expand_epi16(static_cast<__mmask16>(mask), _mm256_castsi128_si256(half));
    return _mm512_cvtph_ps(spread);
  }
  static Weights expand(const Element* values, Index left, std::uint32_t mask) {
    const __m256i dense = left >= kColumns ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values))
                                           : _mm256_maskz_loadu_epi16(static_cast<__mmask16>(lowest(left)), values);
    return _mm512_cvtph_ps(_mm256_maskz_expand_epi16(static_cast<__mmask16>(mask), dense));
  }
};

}  // namespace
}  // namespace sparlow::cpu

#include "cpu/formats/linear_kernels.hpp"

#pragma GCC pop_options

namespace sparlow::cpu {

const RowKernels* avx512_rows() {
  static const bool usable = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi2") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("bmi2");
  if (!usable) return nullptr;
  static const RowKernels kernels = table<Bf16Lane, F16Lane, F32Lane>("avx512");
  return &kernels;
}

}  // namespace sparlow::cpu
#else

const sparlow::cpu::RowKernels* sparlow::cpu::avx512_rows() { return nullptr; }
#endif
