// Two of every four values, with their positions in a nibble.
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>

#include "cpu/formats/element.hpp"
#include "cpu/parallel.hpp"
#include "sparlow/format.hpp"

namespace sparlow {
namespace {

constexpr Index kNone = std::numeric_limits<Index>::max();
constexpr std::uint8_t kTooMany = 255;

// Nibble of each support (bit i: position i is not zero), filled up to two positions from the lowest free one.
constexpr std::array<std::uint8_t, 16> make_nibbles() {
  std::array<std::uint8_t, 16> table{};
  for (unsigned support = 0; support < 16; ++support) {
    unsigned filled = support;
    int count = 0;
    for (int i = 0; i < 4; ++i) count += support >> i & 1;
    for (int i = 0; i < 4 && count < 2; ++i)
      if (!(filled >> i & 1)) filled |= 1u << i, ++count;
    unsigned first = 0, second = 3;
    while (!(filled >> first & 1)) ++first;
    while (!(filled >> second & 1)) --second;
    table[support] = count == 2 ? static_cast<std::uint8_t>(first | second << 2) : kTooMany;
  }
  return table;
}

constexpr std::array<std::uint8_t, 16> kNibbles = make_nibbles();

// Nibble of one group, its two values written; kTooMany when more than two are not zero.
template <typename T>
std::uint8_t pack_group(const T* group, T* values) {
  unsigned support = 0;
  for (int i = 0; i < 4; ++i) support |= static_cast<unsigned>(!cpu::is_zero(group[i])) << i;
  const std::uint8_t nibble = kNibbles[support];
  if (nibble == kTooMany) return nibble;
  const T first = group[nibble & 3], second = group[nibble >> 2];
  values[0] = cpu::is_zero(first) ? T{0} : first;
  values[1] = cpu::is_zero(second) ? T{0} : second;
  return nibble;
}

// Packs one row; returns the first group that cannot be packed, or kNone.
template <typename T>
Index pack_row(const T* s, Index groups, T* values, std::uint8_t* meta) {
  for (Index g = 0; g < groups; ++g) {
    const std::uint8_t nibble = pack_group(s + 4 * g, values + 2 * g);
    if (nibble == kTooMany) return g;
    meta[g / 2] = g % 2 ? static_cast<std::uint8_t>(meta[g / 2] | nibble << 4) : nibble;
  }
  return kNone;
}

template <typename T>
void pack(const T* s, Index rows, Index cols, T* values, std::uint8_t* meta) {
  const Index groups = cols / 4;
  std::atomic<Index> first_bad{kNone};
  cpu::parallel_for(rows, cpu::row_grain(cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index g = pack_row(s + i * cols, groups, values + i * cols / 2, meta + i * meta_cols(cols));
      if (g == kNone) continue;
      const Index bad = i * groups + g;
      for (Index seen = first_bad; bad < seen && !first_bad.compare_exchange_weak(seen, bad);) {
      }
      return;
    }
  });
  const Index bad = first_bad;
  if (bad == kNone) return;
  const Index row = bad / groups, column = bad % groups * 4;
  fail(ErrorCode::invalid_argument, "not a 2:4 matrix: row ", row, ", columns ", column, " to ", column + 3,
       " keep more than two values");
}

static_assert(std::endian::native == std::endian::little);

// Four 2-byte elements are one 8-byte word, and a position is a shift.
void unpack_group(std::uint16_t first, std::uint16_t second, unsigned nibble, std::uint16_t* s) {
  const std::uint64_t word = std::uint64_t{first} << (16 * (nibble & 3)) | std::uint64_t{second}
                                                                               << (16 * (nibble >> 2));
  std::memcpy(s, &word, sizeof word);
}

template <typename T>
void unpack_group(T first, T second, unsigned nibble, T* s) {
  for (int i = 0; i < 4; ++i) s[i] = T{0};
  s[nibble & 3] = first;
  s[nibble >> 2] = second;
}

template <typename T>
void unpack_row(const T* values, const std::uint8_t* meta, Index groups, T* s) {
  for (Index b = 0; b < groups / 2; ++b) {
    const unsigned byte = meta[b];
    unpack_group(values[4 * b], values[4 * b + 1], byte & 15, s + 8 * b);
    unpack_group(values[4 * b + 2], values[4 * b + 3], byte >> 4, s + 8 * b + 4);
  }
  if (groups % 2) {
    const Index g = groups - 1;
    unpack_group(values[2 * g], values[2 * g + 1], meta[g / 2] & 15u, s + 4 * g);
  }
}

void check(Index rows, Index cols) {
  require(rows >= 0 && cols >= 0 && cols % 4 == 0, "2:4 packing needs d_in divisible by 4, got ", rows, " x ", cols);
}

}  // namespace

void nm24_pack(const void* s, Index rows, Index cols, int element_size, void* values, std::uint8_t* meta) {
  check(rows, cols);
  cpu::with_element(element_size, [&](auto zero) {
    using T = decltype(zero);
    pack(static_cast<const T*>(s), rows, cols, static_cast<T*>(values), meta);
  });
}

void nm24_unpack(const void* values, const std::uint8_t* meta, Index rows, Index cols, int element_size, void* s) {
  check(rows, cols);
  cpu::with_element(element_size, [&](auto zero) {
    using T = decltype(zero);
    cpu::parallel_for(rows, cpu::row_grain(cols), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i)
        unpack_row(static_cast<const T*>(values) + i * cols / 2, meta + i * meta_cols(cols), cols / 4,
                   static_cast<T*>(s) + i * cols);
    });
  });
}

}  // namespace sparlow
