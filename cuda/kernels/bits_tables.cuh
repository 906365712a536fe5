// Where the bits of a checkpoint's table, the values they stand for and the packed blocks are.
#pragma once

#include "bits.hpp"
#include "bits_layout.hpp"

namespace sparlow::kernels {

// A bit for every element, [d_out, ceil(d_in / 8)]; zero outside.
struct BitTable {
  const std::uint8_t* bits;
  int d_out, d_in;

  __device__ int bytes() const { return (d_in + 7) / 8; }
  __device__ int columns() const { return blocks(d_in, kColumnBlock); }
  __device__ unsigned bit(int row, int col) const {
    if (row >= d_out || col >= d_in) return 0;
    return bits[static_cast<std::size_t>(row) * bytes() + col / 8] >> (col % 8) & 1;
  }
  // Set bits of a row from column `first`, a multiple of 8, up to `end`.
  __device__ unsigned count(int row, int first, int end) const {
    const std::uint8_t* from = bits + static_cast<std::size_t>(row) * bytes();
    unsigned sum = 0;
    for (int col = first; col < end; col += 8) {
      const unsigned byte = from[col / 8];
      sum += __popc(end - col >= 8 ? byte : byte & ((1u << (end - col)) - 1));
    }
    return sum;
  }
  // Of an element's value among all values; starts: of each row's blocks of columns.
  __device__ std::size_t index_of(const std::uint32_t* starts, int row, int col) const {
    const int block = col / kColumnBlock;
    return starts[static_cast<std::size_t>(row) * columns() + block] + count(row, block * kColumnBlock, col);
  }
};

// The packed blocks of a layer.
struct PackedBlocks {
  const std::uint32_t* offsets;
  uint4* data;
  int columns;     // blocks of columns
  int rows;        // of a block
  int sign_units;  // of 16 bytes, at the start of each block

  __host__ __device__ Place origin(int block) const { return {block / columns * rows, block % columns * kColumnBlock}; }
  __host__ __device__ int block_of(int row, int col) const { return row / rows * columns + col / kColumnBlock; }
  // Of 16 rows.
  __device__ std::uint32_t* signs(int block, int row) const {
    return reinterpret_cast<std::uint32_t*>(data + offsets[block]) + row % rows / kTileRows * (kSignBytes / 4);
  }
  __device__ std::uint32_t* words(int block) const {
    return reinterpret_cast<std::uint32_t*>(data + offsets[block] + sign_units);
  }
};

inline int rows_of_block(const BitsShape& shape) { return shape.bitmap ? kTileRows : kRowBlock; }
inline int sign_bytes(const BitsShape& shape) {
  return shape.sign_rank ? rows_of_block(shape) / kTileRows * kSignBytes : 0;
}
inline unsigned block_count(const BitsShape& shape) {
  return static_cast<unsigned>(blocks(shape.d_out, rows_of_block(shape))) * blocks(shape.d_in, kColumnBlock);
}
inline PackedBlocks blocks_of(const BitsShape& shape, const BitsPacked& packed) {
  return {packed.offsets, static_cast<uint4*>(packed.blocks), blocks(shape.d_in, kColumnBlock), rows_of_block(shape),
          sign_bytes(shape) / 16};
}

// Elements of a block in the order of its chunks, for one warp: each(place, index of the value in the block).
// nibble(chunk) answers which of this lane's elements are set.
template <typename Nibble, typename Each>
__device__ void walk_block(int lane, Nibble nibble, Each each) {
  int before = 0;
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const unsigned bits = nibble(chunk);
    int sum = __popc(bits);
    for (int i = 1; i < 32; i *= 2) {
      const int below = __shfl_up_sync(~0u, sum, i);
      if (lane >= i) sum += below;
    }
    int index = before + sum - __popc(bits);
    for (int e = 0; e < 4; ++e)
      if (bits >> e & 1) each(place_in_chunk(chunk, lane, e), index++);
    before += __shfl_sync(~0u, sum, 31);
  }
}

}  // namespace sparlow::kernels
