#include "cpu/formats/nm24_rows.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "cpu/multiversion.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define SPARLOW_X86 1
#else
#define SPARLOW_X86 0
#endif

namespace sparlow::cpu {
namespace {

struct F32 {
  static float at(const void* p, Index i) { return static_cast<const float*>(p)[i]; }
};
struct Bf16 {
  static float at(const void* p, Index i) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(p)[i]) << 16);
  }
};
struct F16 {
  static float at(const void* p, Index i) { return static_cast<float>(static_cast<const _Float16*>(p)[i]); }
};

// Groups first.. of a row, one after another.
template <typename T>
void add_groups(const void* values, const std::uint8_t* meta, Index first, Index groups, const float* x, Index stride,
                int tokens, float* sums) {
  for (Index g = first; g < groups; ++g) {
    const unsigned nibble = g % 2 ? meta[g / 2] >> 4 : meta[g / 2] & 15u;
    const float a = T::at(values, 2 * g), b = T::at(values, 2 * g + 1);
    for (int t = 0; t < tokens; ++t) {
      const float* group = x + t * stride + 4 * g;
      sums[t] += a * group[nibble & 3] + b * group[nibble >> 2];
    }
  }
}

template <typename T>
void row_portable(const void* values, const std::uint8_t* meta, Index groups, const float* x, Index stride, int tokens,
                  float* sums) {
  for (int t = 0; t < tokens; ++t) sums[t] = 0;
  add_groups<T>(values, meta, 0, groups, x, stride, tokens, sums);
}

#if SPARLOW_X86

#define SPARLOW_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define SPARLOW_AVX2 __attribute__((target("avx2,fma,f16c")))

// Which of eight columns a byte of positions keeps: as bits, and as indices of its four values.
constexpr auto kMasks = [] {
  std::array<std::uint8_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte)
    table[byte] = static_cast<std::uint8_t>(1u << (byte & 3) | 1u << (byte >> 2 & 3) | 16u << (byte >> 4 & 3) |
                                            16u << (byte >> 6 & 3));
  return table;
}();
struct alignas(16) Indices {
  std::int32_t of[4];
};
constexpr auto kIndices = [] {
  std::array<Indices, 256> table{};
  for (int byte = 0; byte < 256; ++byte)
    table[byte] = {{byte & 3, byte >> 2 & 3, 4 + (byte >> 4 & 3), 4 + (byte >> 6 & 3)}};
  return table;
}();

template <typename T>
SPARLOW_AVX2 inline __m256 load_eight(const void* values, Index i) {
  if constexpr (std::is_same_v<T, F32>) return _mm256_loadu_ps(static_cast<const float*>(values) + i);
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const std::uint16_t*>(values) + i));
  if constexpr (std::is_same_v<T, F16>) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

SPARLOW_AVX2 inline float sum_of(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Sixteen columns a step: eight values are spread over them.
template <typename T, int kTokens>
SPARLOW_AVX512 void row_avx512_of(const void* values, const std::uint8_t* meta, Index groups, const float* x,
                                  Index stride, float* sums) {
  __m512 acc[kTokens] = {};
  const Index steps = groups / 4;
  for (Index i = 0; i < steps; ++i) {
    const auto mask = static_cast<__mmask16>(kMasks[meta[2 * i]] | kMasks[meta[2 * i + 1]] << 8);
    const __m512 spread = _mm512_maskz_expand_ps(mask, _mm512_castps256_ps512(load_eight<T>(values, 8 * i)));
    for (int t = 0; t < kTokens; ++t)
      acc[t] = _mm512_fmadd_ps(spread, _mm512_loadu_ps(x + t * stride + 16 * i), acc[t]);
  }
  for (int t = 0; t < kTokens; ++t) {
    alignas(64) float lanes[16];
    _mm512_store_ps(lanes, acc[t]);
    sums[t] = sum_of(_mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 8)));
  }
  add_groups<T>(values, meta, 4 * steps, groups, x, stride, kTokens, sums);
}

// Sixteen columns a step: the columns that eight values belong to are picked from x.
template <typename T, int kTokens>
SPARLOW_AVX2 void row_avx2_of(const void* values, const std::uint8_t* meta, Index groups, const float* x, Index stride,
                              float* sums) {
  __m256 acc[kTokens] = {};
  const Index steps = groups / 4;
  for (Index i = 0; i < steps; ++i) {
    const auto index = [&](int byte) __attribute__((target("avx2,fma,f16c"))) {
      return _mm256_castsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(&kIndices[meta[2 * i + byte]])));
    };
    const __m256i first = index(0), second = index(1);
    const __m256 eight = load_eight<T>(values, 8 * i);
    for (int t = 0; t < kTokens; ++t) {
      const float* columns = x + t * stride + 16 * i;
      const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(columns), first);
      const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(columns + 8), second);
      acc[t] = _mm256_fmadd_ps(eight, _mm256_permute2f128_ps(low, high, 0x20), acc[t]);
    }
  }
  for (int t = 0; t < kTokens; ++t) sums[t] = sum_of(acc[t]);
  add_groups<T>(values, meta, 4 * steps, groups, x, stride, kTokens, sums);
}

#define SPARLOW_BY_TOKENS(name)                                                                                   \
  template <typename T>                                                                                           \
  void name(const void* values, const std::uint8_t* meta, Index groups, const float* x, Index stride, int tokens, \
            float* sums) {                                                                                        \
    switch (tokens) {                                                                                             \
      case 1: return name##_of<T, 1>(values, meta, groups, x, stride, sums);                                      \
      case 2: return name##_of<T, 2>(values, meta, groups, x, stride, sums);                                      \
      case 3: return name##_of<T, 3>(values, meta, groups, x, stride, sums);                                      \
      default: return name##_of<T, 4>(values, meta, groups, x, stride, sums);                                     \
    }                                                                                                             \
  }
SPARLOW_BY_TOKENS(row_avx512)
SPARLOW_BY_TOKENS(row_avx2)
#undef SPARLOW_BY_TOKENS

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

#endif  // SPARLOW_X86

template <typename T>
std::vector<Nm24Row*> rows_of() {
  std::vector<Nm24Row*> rows;
#if SPARLOW_X86
  if (has_avx512()) rows.push_back(row_avx512<T>);
  if (has_avx2()) rows.push_back(row_avx2<T>);
#endif
  rows.push_back(row_portable<T>);
  return rows;
}

// Sixteen partial sums, so that the compiler may use vectors.
#define SPARLOW_DENSE_ROW(name, T)                                                                                     \
  SPARLOW_MULTIVERSION void name(const void* values, Index n, const float* x, Index stride, int tokens, float* sums) { \
    constexpr int kLanes = 16;                                                                                         \
    for (int t = 0; t < tokens; ++t) {                                                                                 \
      float lanes[kLanes] = {};                                                                                        \
      Index j = 0;                                                                                                     \
      for (; j + kLanes <= n; j += kLanes)                                                                             \
        for (int k = 0; k < kLanes; ++k) lanes[k] += T::at(values, j + k) * x[t * stride + j + k];                     \
      for (; j < n; ++j) lanes[0] += T::at(values, j) * x[t * stride + j];                                             \
      float sum = 0;                                                                                                   \
      for (const float lane : lanes) sum += lane;                                                                      \
      sums[t] = sum;                                                                                                   \
    }                                                                                                                  \
  }
SPARLOW_DENSE_ROW(dense_row_f32, F32)
SPARLOW_DENSE_ROW(dense_row_bf16, Bf16)
SPARLOW_DENSE_ROW(dense_row_f16, F16)
#undef SPARLOW_DENSE_ROW

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 64);  // stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace

std::vector<Nm24Row*> nm24_rows(DType dtype) {
  return dtype == DType::f32 ? rows_of<F32>() : dtype == DType::bf16 ? rows_of<Bf16>() : rows_of<F16>();
}

Nm24Row* nm24_row(DType dtype) {
  static Nm24Row* const rows[] = {nm24_rows(DType::f32)[0], nm24_rows(DType::bf16)[0], nm24_rows(DType::f16)[0]};
  return rows[static_cast<int>(dtype)];
}

DenseRow* dense_row(DType dtype) {
  static DenseRow* const rows[] = {dense_row_f32, dense_row_bf16, dense_row_f16};
  return rows[static_cast<int>(dtype)];
}

void widen(const void* from, DType dtype, Index n, float* to) {
  for (Index i = 0; i < n; ++i)
    to[i] = dtype == DType::f32 ? F32::at(from, i) : dtype == DType::bf16 ? Bf16::at(from, i) : F16::at(from, i);
}

void narrow(const float* from, DType dtype, Index n, void* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  for (Index i = 0; i < n; ++i) {
    if (dtype == DType::bf16) static_cast<std::uint16_t*>(to)[i] = to_bf16(from[i]);
    else static_cast<_Float16*>(to)[i] = static_cast<_Float16>(from[i]);
  }
}

}  // namespace sparlow::cpu
