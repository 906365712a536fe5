// The packed layout of layers with bit masks: s in the format bitmap, and signs, which also come with s in nm24.
//
// A bitmap comes in blocks of 16 rows and 128 columns, nm24 in those of nm24_layout.hpp, 32 rows high. Blocks of a row
// of blocks follow one another; a table says where each begins. A block is
//   signs   256 bytes for each 16 rows, when there are any: two words a lane; a set bit is -1
//   masks   64 words: four a chunk, eight lanes a word, four elements a lane
//   values  of the set bits, in the order of the masks, up to a multiple of 16 bytes
// or, in nm24, signs and the block of nm24_layout.hpp. A chunk has four elements of every lane, as it needs them for
// half of a 16 x 16 operand A. Columns are permuted as in v of nm24_layout.hpp: lane q of a quad holds columns
// 8 q .. 8 q + 7 of 32, so that it reads the same columns of x with one load.
#pragma once

#include "nm24_layout.hpp"

namespace sparlow::kernels {

constexpr int kTileRows = 16, kTileElements = kTileRows * kColumnBlock;
constexpr int kChunks = 16, kMaskWords = 64, kMaskBytes = 4 * kMaskWords;
constexpr int kSignBytes = kTileElements / 8;  // of 16 rows
constexpr int kSignVUnits = 16;  // units of 16 bytes that a block of columns has of one rank of the signs' v

struct Place {
  int row, col;
};
// Of element 0..3 of a lane in a chunk, within 16 rows.
SPARLOW_HD Place place_in_chunk(int chunk, int lane, int element) {
  return {lane / 4 + 8 * (element / 2), chunk / 4 * 32 + 8 * (lane % 4) + 2 * (chunk % 4) + element % 2};
}
struct MaskBit {
  int word, bit;
};
// The way back.
SPARLOW_HD MaskBit mask_bit(Place p) {
  const int lane = p.row % 8 * 4 + p.col % 32 / 8, chunk = p.col / 32 * 4 + p.col % 8 / 2;
  return {4 * chunk + lane / 8, lane % 8 * 4 + p.row / 8 * 2 + p.col % 2};
}

// Bit 0..31 of word 0 or 1 of a lane, within 16 rows: neighbouring columns are 16 bits apart.
SPARLOW_HD Place place_of_sign(int word, int lane, int bit) {
  const int pair = bit % 16, chunk = 8 * word + pair / 2;
  return {lane / 4 + 8 * (pair % 2), chunk / 4 * 32 + 8 * (lane % 4) + 2 * (chunk % 4) + bit / 16};
}
struct SignBit {
  int word, bit;  // word: of the 64 of 16 rows
};
SPARLOW_HD SignBit sign_bit(Place p) {
  const int lane = p.row % 8 * 4 + p.col % 32 / 8, chunk = p.col / 32 * 4 + p.col % 8 / 2;
  return {2 * lane + chunk / 8, chunk % 8 * 2 + p.row / 8 + 16 * (p.col % 2)};
}

// Rank (row) and column of the low half of word `index` of the packed v of the signs.
SPARLOW_HD Place place_of_sign_v(std::size_t index, int ranks) {
  constexpr int kWords = kColumnBlock / 2;
  const int unit = static_cast<int>(index / kWords), pair = static_cast<int>(index % kWords);
  return {unit % ranks, unit / ranks * kColumnBlock + 2 * pair};
}
SPARLOW_HD std::size_t index_of_sign_v(Place p, int ranks) {
  return (static_cast<std::size_t>(p.col / kColumnBlock) * ranks + p.row) * (kColumnBlock / 2) +
         p.col % kColumnBlock / 2;
}

}  // namespace sparlow::kernels
