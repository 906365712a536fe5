// Where masks, signs and the signs' v put an element, against the operand layout of the PTX manual, lane by lane.
#include <cstdio>
#include <cstdlib>
#include <set>
#include <utility>

#include "../../cuda/kernels/bits_layout.hpp"

using namespace sparlow::kernels;

namespace {

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("wrong: %s\n", what);
  std::exit(1);
}

// PTX: row and column of the low half of register r of a 16 x 16 operand A.
Place operand_a(int lane, int r) { return {lane / 4 + r % 2 * 8, lane % 4 * 2 + r / 2 * 8}; }
// Column `col` of the k-th operand, of x as of s: a lane reads eight columns in a row for two operands.
int permuted(int k, int col) { return k / 2 * 32 + col % 8 / 2 * 8 + k % 2 * 4 + col / 8 * 2 + col % 2; }

bool same(Place a, Place b) { return a.row == b.row && a.col == b.col; }

// Chunks 2 k and 2 k + 1 are registers 0, 1 and 2, 3 of the k-th operand.
void test_chunks() {
  std::set<std::pair<int, int>> seen;
  for (int chunk = 0; chunk < kChunks; ++chunk)
    for (int lane = 0; lane < 32; ++lane)
      for (int e = 0; e < 4; ++e) {
        Place want = operand_a(lane, chunk % 2 * 2 + e / 2);
        want.col = permuted(chunk / 2, want.col + e % 2);
        const Place p = place_in_chunk(chunk, lane, e);
        expect(same(p, want), "element of a chunk");
        const MaskBit bit = mask_bit(p);
        expect(bit.word == 4 * chunk + lane / 8 && bit.bit == 4 * (lane % 8) + e, "way back of a mask");
        seen.insert({p.row, p.col});
      }
  expect(seen.size() == kTileElements, "every element once");
}

// Register r of operand k: bits 4 (k % 4) + r and 16 above of word k / 4.
void test_signs() {
  std::set<std::pair<int, int>> seen;
  for (int k = 0; k < kColumnBlock / 16; ++k)
    for (int lane = 0; lane < 32; ++lane)
      for (int r = 0; r < 4; ++r)
        for (int odd = 0; odd < 2; ++odd) {
          Place want = operand_a(lane, r);
          want.col = permuted(k, want.col + odd);
          const int bit = 4 * (k % 4) + r + 16 * odd;
          expect(same(place_of_sign(k / 4, lane, bit), want), "place of a sign");
          const SignBit back = sign_bit(want);
          expect(back.word == 2 * lane + k / 4 && back.bit == bit, "way back of a sign");
          seen.insert({want.row, want.col});
        }
  expect(seen.size() == kTileElements, "every sign once");
}

// A lane of quad position q takes four words for each 32 columns: the pairs of registers 0 and 2 of two operands.
void test_v_of_signs() {
  constexpr int kRanks = 3;
  for (int block = 0; block < 2; ++block)
    for (int rank = 0; rank < kRanks; ++rank)
      for (int step = 0; step < 4; ++step)
        for (int q = 0; q < 4; ++q)
          for (int part = 0; part < 4; ++part) {
            const std::size_t index = (((block * kRanks + rank) * 4 + step) * 4 + q) * 4 + part;
            const int col = block * kColumnBlock + permuted(2 * step + part / 2, operand_a(q, part % 2 * 2).col);
            expect(same(place_of_sign_v(index, kRanks), {rank, col}), "place of v");
            expect(index_of_sign_v({rank, col}, kRanks) == index, "way back of v");
            expect(index_of_sign_v({rank, col + 1}, kRanks) == index, "its odd column");
          }
}

}  // namespace

int main() {
  test_chunks();
  test_signs();
  test_v_of_signs();
  std::puts("ok");
}
