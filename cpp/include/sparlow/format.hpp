// How a layer stores its terms. The sparse term s (d_out x d_in, row-major, contiguous), sizes of one row:
//   nm24    cols / 2 values; ceil(cols / 8) bytes of positions: a nibble per group of four, the low nibble first, two
//           ascending 2-bit positions per nibble, low bits first
//   bitmap  its non-zero values; ceil(cols / 8) bytes, bit i of byte b is column 8 b + i
// The signs of a signed term: ceil(cols / 8) bytes a row, laid out like the bits of bitmap; 1 is +1, 0 is -1.
// Unused bits are zero and -0.0 is stored as +0.0, so equal matrices have equal bytes.
//
// Elements are bfloat16, float16, float32 or float64, told apart by their size alone: 2, 4 or 8 bytes. All memory is
// the host's. Rows are worked on by several threads.
#pragma once

#include <cstdint>

#include "sparlow/export.hpp"
#include "sparlow/view.hpp"

namespace sparlow {

// Bytes of positions or bits per row.
inline Index meta_cols(Index cols) { return (cols + 7) / 8; }

// values: rows * cols / 2 elements. A group with fewer than two non-zeros is filled up with zeros at its lowest free
// positions. Throws Error(invalid_argument) naming the first group with more than two.
SPARLOW_API void nm24_pack(const void* s, Index rows, Index cols, int element_size, void* values, std::uint8_t* meta);
SPARLOW_API void nm24_unpack(const void* values, const std::uint8_t* meta, Index rows, Index cols, int element_size,
                             void* s);

// Elements of s that are not zero: the size of `values` below.
SPARLOW_API Index bitmap_count(const void* s, Index rows, Index cols, int element_size);
SPARLOW_API void bitmap_pack(const void* s, Index rows, Index cols, int element_size, Index count, void* values,
                             std::uint8_t* meta);
// Throws Error(invalid_argument) when the bits do not mark exactly `count` values.
SPARLOW_API void bitmap_unpack(const void* values, Index count, const std::uint8_t* meta, Index rows, Index cols,
                               int element_size, void* s);

// positive: rows * cols bytes, not 0 for +1; unpacking writes 0 and 1.
SPARLOW_API void signs_pack(const std::uint8_t* positive, Index rows, Index cols, std::uint8_t* bits);
SPARLOW_API void signs_unpack(const std::uint8_t* bits, Index rows, Index cols, std::uint8_t* positive);

}  // namespace sparlow
