// The packed layout of layers with bit masks: s in the format bitmap, and signs.
//
// A block has 32 rows and 128 columns, as in nm24_layout.hpp. It is a stream of 32 chunks; a chunk has four elements of
// every lane, as it needs them for half of a 16 x 16 operand A:
//   masks   128 words: four a chunk, eight lanes a word, four elements a lane
//   signs   four words a lane (of 32 columns each), when there are any; a set bit is -1
//   values  of the set bits, in the order of the masks, up to a multiple of 16 bytes
#pragma once

#include "nm24_layout.hpp"

namespace sparlow::kernels {

constexpr int kChunks = 32, kMaskWords = 128, kMaskBytes = 4 * kMaskWords, kSignBytes = 512;

struct Place {
  int row, col;
};
// Of element 0..3 of a lane in a chunk, within its block.
SPARLOW_HD Place place_in_chunk(int chunk, int lane, int element) {
  const int half = chunk % 2, tile = chunk / 2 % 2, k16 = chunk / 4;
  return {tile * 16 + lane / 4 + 8 * (element / 2), k16 * 16 + 2 * (lane % 4) + 8 * half + element % 2};
}
// Bit 0..31 of a lane's word of signs: pairs of neighbouring columns are 16 bits apart.
SPARLOW_HD Place place_of_sign(int word, int lane, int bit) {
  const int pair = bit % 16, k16 = 2 * word + pair / 8, tile = pair / 4 % 2, half = pair / 2 % 2;
  return {tile * 16 + lane / 4 + 8 * (pair % 2), k16 * 16 + 2 * (lane % 4) + 8 * half + bit / 16};
}

}  // namespace sparlow::kernels
