// How a 2:4 + low-rank layer lies in GPU memory, so that a warp reads the operands of its matrix instructions with
// contiguous 16-byte loads. Everything here is arithmetic on indices, shared by the packing kernels, the host
// packing and the tests; no CUDA needed.
//
// One unit is 16 bytes. Of operands that lanes load, it is what one lane holds: lane = 4 g + q, g = 0..7, q = 0..3.
//
//   weights  [row block of 32][column block of 128][288 units]
//            units 0..255: (tile t of 16 rows, step s of 32 columns) -> four matrices of 8 rows x 16 bytes, the kept
//            pairs of four groups of four each: upper rows, lower rows; the same of the other four groups. A warp has
//            them by ldmatrix, a warpgroup straight from shared memory
//            units 256..287: (half of the columns, tile, lane) -> a word of their positions
//   u        [row block of 32][step of 16 ranks][tile t][lane]      operand A of a dense m16n8k16 product
//   v        [tile of 16 ranks][chunk of 8 columns][rank]           eight columns of one rank: 128 bytes are the 8 x 8
//            blocks that products of whole warpgroups take from shared memory. Lanes that load operands themselves
//            have chunk q of a step of 32 columns for ranks g and g + 8, as they have the same columns of x by one load
//
// Rows, columns and ranks are padded with zeros to whole blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define SPARLOW_HD __host__ __device__ inline
#else
#define SPARLOW_HD inline
#endif

namespace sparlow::kernels {

constexpr int kRowBlock = 32, kColumnBlock = 128, kRankBlock = 16;
constexpr int kStep = 32;                            // columns of one sparse matrix instruction
constexpr int kChunk = 8;                            // columns of one unit of v
constexpr int kBlockUnits = 288, kValueUnits = 256;  // of one 32 x 128 block of weights
constexpr int kBlockBytes = kBlockUnits * 16;        // 9/16 of the dense block

SPARLOW_HD constexpr int blocks(int n, int block) { return (n + block - 1) / block; }

// The checkpoint's layout of s [d_out, d_in]: values [d_out, d_in / 2], one nibble of two positions a group of four.
struct CheckpointNm24 {
  const std::uint16_t* values;
  const std::uint8_t* meta;
  int d_out, d_in;

  SPARLOW_HD bool inside(int row, int group) const { return row < d_out && 4 * group < d_in; }

  SPARLOW_HD std::uint32_t pair(int row, int group) const {
    if (!inside(row, group)) return 0;
    const std::uint16_t* p = values + static_cast<std::size_t>(row) * (d_in / 2) + 2 * group;
    return p[0] | static_cast<std::uint32_t>(p[1]) << 16;
  }

  // Outside the matrix: positions 0 and 1, since equal positions are undefined behaviour in hardware.
  SPARLOW_HD std::uint32_t nibble(int row, int group) const {
    if (!inside(row, group)) return 4;
    const std::uint8_t byte = meta[static_cast<std::size_t>(row) * ((d_in + 7) / 8) + group / 2];
    return group % 2 ? byte >> 4 : byte & 15;
  }
};

// A row-major matrix of 16-bit elements; zero outside.
struct Dense16 {
  const std::uint16_t* data;
  int rows, cols;

  SPARLOW_HD std::uint32_t pair(int row, int col) const {
    const std::uint16_t* p = data + static_cast<std::size_t>(row) * cols + col;
    const std::uint32_t low = row < rows && col < cols ? p[0] : 0;
    const std::uint32_t high = row < rows && col + 1 < cols ? p[1] : 0;
    return low | high << 16;
  }
};

// Word 0..3 of a lane holds rows g, g + 8, g, g + 8 and the first, first, second, second half of the columns.
SPARLOW_HD int word_row(int lane, int word) { return lane / 4 + 8 * (word % 2); }

// Of a block, 0 .. 4 kValueUnits - 1.
SPARLOW_HD std::uint32_t weight_value_word(const CheckpointNm24& s, int row_block, int column_block, int index) {
  const int lane = index % 32, word = index / 32 % 4, step = index / 128 % 4, tile = index / 512;
  const int group = (column_block * kColumnBlock + step * kStep) / 4 + lane % 4 + 4 * (word / 2);
  return s.pair(row_block * kRowBlock + tile * 16 + word_row(lane, word), group);
}

// Of a half, steps 0 (from lanes 0, 1 of a quad) and 1 (from lanes 2, 3). Of the pair of lanes the even one has columns
// 0..15 of the step, the odd one 16..31; low half row g, high half row g + 8.
SPARLOW_HD std::uint32_t weight_position_word(const CheckpointNm24& s, int row_block, int column_block, int index) {
  const int lane = index % 32, tile = index / 32 % 2, step = 2 * (index / 64) + lane % 4 / 2;
  const int group = (column_block * kColumnBlock + step * kStep) / 4 + 4 * (lane % 2);
  const int row = row_block * kRowBlock + tile * 16 + lane / 4;
  std::uint32_t bits = 0;
  for (int i = 0; i < 4; ++i)
    bits |= s.nibble(row, group + i) << (4 * i) | s.nibble(row + 8, group + i) << (16 + 4 * i);
  return bits;
}

// index counts the words of the packed weights.
SPARLOW_HD std::uint32_t weight_word(const CheckpointNm24& s, std::size_t index) {
  constexpr int kValueWords = 4 * kValueUnits;
  const int word = index % (4 * kBlockUnits);
  const std::size_t block = index / (4 * kBlockUnits);
  const int columns = blocks(s.d_in, kColumnBlock);
  const int row_block = static_cast<int>(block / columns), column_block = static_cast<int>(block % columns);
  return word < kValueWords ? weight_value_word(s, row_block, column_block, word)
                            : weight_position_word(s, row_block, column_block, word - kValueWords);
}

// rank: of the packed matrix; u may have fewer columns.
SPARLOW_HD std::uint32_t u_word(const Dense16& u, int rank, std::size_t index) {
  const int word = index % 4, lane = index / 4 % 32, tile = index / 128 % 2;
  const int steps = blocks(rank, kRankBlock);
  const int step = index / 256 % steps, row_block = static_cast<int>(index / 256 / steps);
  return u.pair(row_block * kRowBlock + tile * 16 + word_row(lane, word),
                step * kRankBlock + 2 * (lane % 4) + 8 * (word / 2));
}

SPARLOW_HD int v_chunks(int d_in) { return blocks(d_in, kColumnBlock) * (kColumnBlock / kChunk); }

SPARLOW_HD std::uint32_t v_word(const Dense16& v, std::size_t index) {
  const int word = index % 4, row = index / 4 % kRankBlock;
  const std::size_t column = index / 4 / kRankBlock;
  const int chunks = v_chunks(v.cols);
  const int chunk = static_cast<int>(column % chunks), tile = static_cast<int>(column / chunks);
  return v.pair(tile * kRankBlock + row, chunk * kChunk + 2 * word);
}
// Of the units of a step of 32 columns, the one with a lane's columns of rank g; that of rank g + 8 is 8 further.
SPARLOW_HD int v_unit(int lane) { return lane % 4 * kRankBlock + lane / 4; }

// The way back: which packed word holds a pair of the checkpoint, for the exact inverse of packing.
struct PackedNm24 {
  const std::uint32_t* words;
  int d_in;

  SPARLOW_HD std::size_t block_of(int row, int group) const {
    return static_cast<std::size_t>(row / kRowBlock) * blocks(d_in, kColumnBlock) + group / (kColumnBlock / 4);
  }
  SPARLOW_HD std::uint32_t pair(int row, int group) const {
    const int tile = row / 16 % 2, step = group / 8 % 4, lane = row % 8 * 4 + group % 4;
    const int word = row / 8 % 2 + 2 * (group / 4 % 2);
    return words[block_of(row, group) * (4 * kBlockUnits) + ((tile * 4 + step) * 4 + word) * 32 + lane];
  }
  SPARLOW_HD std::uint32_t nibble(int row, int group) const {
    const int tile = row / 16 % 2, step = group / 8 % 4, lane = row % 8 * 4 + step % 2 * 2 + group / 4 % 2;
    const std::uint32_t bits =
        words[4 * (block_of(row, group) * kBlockUnits + kValueUnits) + (step / 2 * 2 + tile) * 32 + lane];
    return bits >> (row / 8 % 2 * 16 + 4 * (group % 4)) & 15;
  }
  // Byte `byte` of a row of the checkpoint's meta.
  SPARLOW_HD std::uint32_t meta(int row, int byte) const {
    const int group = 2 * byte;
    return nibble(row, group) | (4 * (group + 1) < d_in ? nibble(row, group + 1) << 4 : 0);
  }
};

SPARLOW_HD std::uint16_t half_of(std::uint32_t word, int odd) { return static_cast<std::uint16_t>(word >> 16 * odd); }

// Element of u from its packed words; rank: of the packed matrix.
SPARLOW_HD std::uint16_t u_element(const std::uint32_t* words, int rank, int row, int column) {
  const int inner = column % kRankBlock, lane = row % 8 * 4 + inner % 8 / 2, word = row / 8 % 2 + 2 * (inner / 8);
  const std::size_t unit =
      (static_cast<std::size_t>(row / kRowBlock) * blocks(rank, kRankBlock) + column / kRankBlock) * 2 + row / 16 % 2;
  return half_of(words[(unit * 32 + lane) * 4 + word], column % 2);
}
SPARLOW_HD std::uint16_t v_element(const std::uint32_t* words, int d_in, int row, int column) {
  const std::size_t chunk = static_cast<std::size_t>(row / kRankBlock) * v_chunks(d_in) + column / kChunk;
  return half_of(words[(chunk * kRankBlock + row % kRankBlock) * 4 + column % kChunk / 2], column % 2);
}

SPARLOW_HD std::size_t weight_words(int d_out, int d_in) {
  return static_cast<std::size_t>(blocks(d_out, kRowBlock)) * blocks(d_in, kColumnBlock) * kBlockUnits * 4;
}
SPARLOW_HD std::size_t u_words(int d_out, int rank) {
  return static_cast<std::size_t>(blocks(d_out, kRowBlock)) * blocks(rank, kRankBlock) * 256;
}
SPARLOW_HD std::size_t v_words(int rank, int d_in) {
  return static_cast<std::size_t>(blocks(rank, kRankBlock)) * v_chunks(d_in) * kRankBlock * 4;
}

}  // namespace sparlow::kernels
