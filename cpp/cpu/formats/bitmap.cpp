// Any support: one bit per element, then the values row by row.
#include <algorithm>
#include <bit>
#include <vector>

#include "cpu/formats/element.hpp"
#include "cpu/parallel.hpp"
#include "sparlow/format.hpp"

namespace sparlow {
namespace {

// First value of every row, and the number of values at the end. count_row(i) = values of row i.
template <typename CountRow>
std::vector<Index> row_starts(Index rows, Index cols, const CountRow& count_row) {
  std::vector<Index> starts(static_cast<std::size_t>(rows) + 1);
  cpu::parallel_for(rows, cpu::row_grain(cols), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) starts[i + 1] = count_row(i);
  });
  for (Index i = 0; i < rows; ++i) starts[i + 1] += starts[i];
  return starts;
}

template <typename T>
std::vector<Index> dense_starts(const T* s, Index rows, Index cols) {
  return row_starts(rows, cols, [=](Index i) {
    Index count = 0;
    for (Index j = 0; j < cols; ++j) count += !cpu::is_zero(s[i * cols + j]);
    return count;
  });
}

template <typename T>
void pack_row(const T* s, Index cols, T* values, std::uint8_t* meta) {
  for (Index b = 0; 8 * b < cols; ++b) {
    unsigned byte = 0;
    for (Index j = 8 * b; j < std::min(cols, 8 * b + 8); ++j) {
      if (cpu::is_zero(s[j])) continue;
      byte |= 1u << (j - 8 * b);
      *values++ = s[j];
    }
    meta[b] = static_cast<std::uint8_t>(byte);
  }
}

// The fast loop reads a value before it knows whether its bit is set; `readable` values may be read.
template <typename T>
void unpack_row(const T* values, Index readable, const std::uint8_t* meta, Index cols, T* s) {
  Index k = 0, j = 0;
  for (; j + 8 <= cols && k + 8 < readable; j += 8) {
    const unsigned byte = meta[j / 8];
    for (int i = 0; i < 8; ++i) {
      const T bit = byte >> i & 1;
      s[j + i] = static_cast<T>(values[k] * bit);
      k += bit;
    }
  }
  for (; j < cols; ++j) s[j] = meta[j / 8] >> (j % 8) & 1 ? values[k++] : T{0};
}

Index count_bits(const std::uint8_t* meta, Index cols) {
  Index count = 0;
  for (Index b = 0; b < cols / 8; ++b) count += std::popcount(meta[b]);
  if (cols % 8) count += std::popcount(static_cast<std::uint8_t>(meta[cols / 8] & ((1u << cols % 8) - 1)));
  return count;
}

void check(Index rows, Index cols) {
  require(rows >= 0 && cols >= 0, "bitmap packing of a ", rows, " x ", cols, " matrix");
}

}  // namespace

Index bitmap_count(const void* s, Index rows, Index cols, int element_size) {
  check(rows, cols);
  return cpu::with_element(
      element_size, [&](auto zero) { return dense_starts(static_cast<const decltype(zero)*>(s), rows, cols).back(); });
}

void bitmap_pack(const void* s, Index rows, Index cols, int element_size, Index count, void* values,
                 std::uint8_t* meta) {
  check(rows, cols);
  cpu::with_element(element_size, [&](auto zero) {
    using T = decltype(zero);
    const T* dense = static_cast<const T*>(s);
    const std::vector<Index> starts = dense_starts(dense, rows, cols);
    require(starts.back() == count, "the matrix has ", starts.back(), " values that are not zero, room for ", count);
    cpu::parallel_for(rows, cpu::row_grain(cols), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i)
        pack_row(dense + i * cols, cols, static_cast<T*>(values) + starts[i], meta + i * meta_cols(cols));
    });
  });
}

void bitmap_unpack(const void* values, Index count, const std::uint8_t* meta, Index rows, Index cols, int element_size,
                   void* s) {
  check(rows, cols);
  const Index row_bytes = meta_cols(cols);
  const std::vector<Index> starts =
      row_starts(rows, cols, [=](Index i) { return count_bits(meta + i * row_bytes, cols); });
  require(starts.back() == count, "the bitmap marks ", starts.back(), " values, ", count, " are stored");
  cpu::with_element(element_size, [&](auto zero) {
    using T = decltype(zero);
    cpu::parallel_for(rows, cpu::row_grain(cols), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i)
        unpack_row(static_cast<const T*>(values) + starts[i], count - starts[i], meta + i * row_bytes, cols,
                   static_cast<T*>(s) + i * cols);
    });
  });
}

}  // namespace sparlow
