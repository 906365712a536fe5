// The packed layout against the matrix instructions' operand layouts as the PTX manual gives them, lane by lane, on the
// host: what the kernels would compute from packed words must be what the checkpoint means.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../cuda/kernels/nm24_layout.hpp"

using namespace sparlow::kernels;

namespace {

using Unit = std::array<std::uint32_t, 4>;
using Tile = std::vector<std::vector<float>>;  // rows x columns

float widen(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
float low(std::uint32_t word) { return widen(word & 0xffff); }
float high(std::uint32_t word) { return widen(word >> 16); }

// PTX: fragment of a 16 x 16 operand A.
Tile tile_of_a(const std::vector<Unit>& lanes) {
  Tile a(16, std::vector<float>(16));
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + r % 2 * 8, col = lane % 4 * 2 + r / 2 * 8;
      a[row][col] = low(lanes[lane][r]), a[row][col + 1] = high(lanes[lane][r]);
    }
  return a;
}

// PTX: a stored 16 x 16 tile and the metadata of one selector give the 16 x 32 operand of mma.sp.m16n8k32.
Tile expand(const std::vector<Unit>& lanes, const std::vector<std::uint32_t>& metadata, int selector) {
  const Tile stored = tile_of_a(lanes);
  Tile a(16, std::vector<float>(32));
  for (int row = 0; row < 16; ++row)
    for (int col = 0; col < 16; ++col) {
      const int group = col / 2, lane = row % 8 * 4 + 2 * selector + group / 4;
      const std::uint32_t nibble = metadata[lane] >> (16 * (row / 8) + 4 * (group % 4)) & 15;
      if ((nibble & 3) >= nibble >> 2) std::printf("positions out of order\n"), std::exit(1);
      a[row][4 * group + (col % 2 ? nibble >> 2 : nibble & 3)] = stored[row][col];
    }
  return a;
}

std::vector<Unit> units(const std::vector<std::uint32_t>& words, std::size_t first, int count = 32) {
  std::vector<Unit> out(count);
  std::memcpy(out.data(), words.data() + 4 * first, 16 * count);
  return out;
}

// PTX: ldmatrix of four 8 x 8 matrices of 16 bits, whose rows of 16 bytes follow each other.
std::vector<Unit> matrices(const std::vector<std::uint32_t>& words, std::size_t first) {
  std::vector<Unit> out(32);
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < 4; ++m) out[lane][m] = words[4 * (first + 8 * m + lane / 4) + lane % 4];
  return out;
}

void expect(bool ok, const char* what, int a, int b, int c) {
  if (ok) return;
  std::printf("%s differs at shape %d x %d, rank %d\n", what, a, b, c);
  std::exit(1);
}

struct Checkpoint {
  int d_out, d_in;
  std::vector<std::uint16_t> values;
  std::vector<std::uint8_t> meta;
  std::vector<float> dense;

  Checkpoint(int d_out, int d_in, std::mt19937& random)
      : d_out(d_out), d_in(d_in), values(d_out * d_in / 2), meta(d_out * ((d_in + 7) / 8)), dense(d_out * d_in) {
    constexpr int legal[6] = {0x4, 0x8, 0xC, 0x9, 0xD, 0xE};
    for (int row = 0; row < d_out; ++row)
      for (int group = 0; group < d_in / 4; ++group) {
        const int nibble = legal[random() % 6];
        meta[row * ((d_in + 7) / 8) + group / 2] |= nibble << (4 * (group % 2));
        for (int i = 0; i < 2; ++i) {
          const auto value = static_cast<std::uint16_t>(0x3f80 + random() % 128 + (random() % 2 << 15));
          values[row * (d_in / 2) + 2 * group + i] = value;
          dense[row * d_in + 4 * group + (i ? nibble >> 2 : nibble & 3)] = widen(value);
        }
      }
  }
  float at(int row, int col) const { return row < d_out && col < d_in ? dense[row * d_in + col] : 0.f; }
};

void test_weights(int d_out, int d_in, std::mt19937& random) {
  const Checkpoint s(d_out, d_in, random);
  std::vector<std::uint32_t> packed(weight_words(d_out, d_in));
  for (std::size_t i = 0; i < packed.size(); ++i)
    packed[i] = weight_word({s.values.data(), s.meta.data(), d_out, d_in}, i);
  const PackedNm24 back{packed.data(), d_in};
  for (int row = 0; row < d_out; ++row) {
    for (int g = 0; g < d_in / 4; ++g) {
      const std::uint16_t* pair = &s.values[row * (d_in / 2) + 2 * g];
      expect(back.pair(row, g) == (pair[0] | std::uint32_t{pair[1]} << 16), "unpacked s", d_out, d_in, 0);
    }
    for (int b = 0; b < (d_in + 7) / 8; ++b)
      expect(back.meta(row, b) == s.meta[row * ((d_in + 7) / 8) + b], "unpacked meta", d_out, d_in, 0);
  }
  for (int rb = 0; rb < blocks(d_out, kRowBlock); ++rb)
    for (int cb = 0; cb < blocks(d_in, kColumnBlock); ++cb) {
      const std::size_t block = (static_cast<std::size_t>(rb) * blocks(d_in, kColumnBlock) + cb) * kBlockUnits;
      const std::uint32_t* positions = packed.data() + 4 * (block + kValueUnits);
      for (int tile = 0; tile < 2; ++tile)
        for (int step = 0; step < 4; ++step) {
          std::vector<std::uint32_t> metadata(32);
          for (int lane = 0; lane < 32; ++lane) metadata[lane] = positions[(step / 2 * 2 + tile) * 32 + lane];
          const Tile a = expand(matrices(packed, block + (tile * 4 + step) * 32), metadata, step % 2);
          for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 32; ++j)
              expect(a[i][j] == s.at(rb * 32 + tile * 16 + i, cb * 128 + step * 32 + j), "s", d_out, d_in, 0);
        }
    }
}

struct Matrix16 {
  int rows, cols;
  std::vector<std::uint16_t> data;
  Matrix16(int rows, int cols, std::mt19937& random) : rows(rows), cols(cols), data(rows * cols) {
    for (auto& x : data) x = static_cast<std::uint16_t>(0x3f80 + random() % 128 + (random() % 2 << 15));
  }
  float at(int i, int j) const { return i < rows && j < cols ? widen(data[i * cols + j]) : 0.f; }
  Dense16 view() const { return {data.data(), rows, cols}; }
};

void test_u(int d_out, int rank, std::mt19937& random) {
  const Matrix16 u(d_out, rank, random);
  std::vector<std::uint32_t> packed(u_words(d_out, rank));
  for (std::size_t i = 0; i < packed.size(); ++i) packed[i] = u_word(u.view(), rank, i);
  for (int i = 0; i < d_out; ++i)
    for (int j = 0; j < rank; ++j)
      expect(u_element(packed.data(), rank, i, j) == u.data[i * rank + j], "unpacked u", d_out, 0, rank);
  const int steps = blocks(rank, kRankBlock);
  for (int rb = 0; rb < blocks(d_out, kRowBlock); ++rb)
    for (int step = 0; step < steps; ++step)
      for (int tile = 0; tile < 2; ++tile) {
        const Tile a = tile_of_a(units(packed, ((rb * steps + step) * 2 + tile) * 32));
        for (int i = 0; i < 16; ++i)
          for (int j = 0; j < 16; ++j)
            expect(a[i][j] == u.at(rb * 32 + tile * 16 + i, step * 16 + j), "u", d_out, 0, rank);
      }
}

// The operands that lanes load, nm24_inner.cuh: operand B of the two halves comes from one load of eight consecutive
// elements of x a lane.
void test_v_of_lanes(const std::vector<std::uint32_t>& packed, const Matrix16& v) {
  const int steps = blocks(v.cols, kColumnBlock) * 4;
  for (int rt = 0; rt < blocks(v.rows, kRankBlock); ++rt)
    for (int step = 0; step < steps; ++step)
      for (int half = 0; half < 2; ++half) {
        std::vector<Unit> lanes(32);
        for (int lane = 0; lane < 32; ++lane) {
          const std::size_t unit = (static_cast<std::size_t>(rt) * steps + step) * 64 + v_unit(lane);
          const std::uint32_t *upper = &packed[4 * unit + 2 * half], *lower = upper + 4 * 8;
          lanes[lane] = {upper[0], lower[0], upper[1], lower[1]};
        }
        const Tile a = tile_of_a(lanes);
        for (int i = 0; i < 16; ++i)
          for (int k = 0; k < 16; ++k) {
            const int quad = k % 8 / 2, element = 4 * half + 2 * (k / 8) + k % 2;  // B: k = 2 q + {0, 1}, + 8
            expect(a[i][k] == v.at(rt * 16 + i, step * 32 + 8 * quad + element), "v of lanes", 0, v.cols, v.rows);
          }
      }
}

// PTX: operand A of 64 x 16 in shared memory, K-major without swizzle: blocks of 8 x 8, `stride` bytes from a block to
// the one of the next eight rows, `leading` bytes to that of the next eight columns.
Tile tile_in_shared(const unsigned char* shared, int rows, int leading, int stride) {
  Tile a(rows, std::vector<float>(16));
  for (int row = 0; row < rows; ++row)
    for (int col = 0; col < 16; ++col) {
      std::uint16_t bits;
      std::memcpy(&bits, shared + row / 8 * stride + col / 8 * leading + row % 8 * 16 + col % 8 * 2, 2);
      a[row][col] = widen(bits);
    }
  return a;
}

// What nm24_many_t.cuh copies for 64 columns: of each eight columns up to four tiles of ranks, 256 bytes each.
void test_v_in_shared(const std::vector<std::uint32_t>& packed, const Matrix16& v) {
  const int chunks = v_chunks(v.cols), tiles = blocks(v.rows, kRankBlock), copied = tiles < 4 ? tiles : 4;
  for (int first = 0; first + copied <= tiles; ++first)
    for (int stage = 0; stage < chunks / 8; ++stage) {
      std::vector<unsigned char> shared;
      for (int c = 0; c < 8; ++c)
        for (int t = 0; t < copied; ++t) {
          const auto* box = reinterpret_cast<const unsigned char*>(packed.data()) +
                            (static_cast<std::size_t>(first + t) * chunks + stage * 8 + c) * 256;
          shared.insert(shared.end(), box, box + 256);
        }
      for (int k = 0; k < 4; ++k) {
        const Tile a = tile_in_shared(shared.data() + 2 * k * copied * 256, copied * 16, copied * 256, 128);
        for (int i = 0; i < copied * 16; ++i)
          for (int j = 0; j < 16; ++j)
            expect(a[i][j] == v.at(first * 16 + i, stage * 64 + k * 16 + j), "v in shared memory", 0, v.cols, v.rows);
      }
    }
}

void test_v(int rank, int d_in, std::mt19937& random) {
  const Matrix16 v(rank, d_in, random);
  std::vector<std::uint32_t> packed(v_words(rank, d_in));
  for (std::size_t i = 0; i < packed.size(); ++i) packed[i] = v_word(v.view(), i);
  for (int i = 0; i < rank; ++i)
    for (int j = 0; j < d_in; ++j)
      expect(v_element(packed.data(), d_in, i, j) == v.data[i * d_in + j], "unpacked v", 0, d_in, rank);
  test_v_of_lanes(packed, v), test_v_in_shared(packed, v);
}

}  // namespace

int main() {
  std::mt19937 random(1);
  constexpr int shapes[][2] = {{32, 128}, {1, 4}, {33, 132}, {70, 260}, {64, 384}, {17, 100}, {96, 1028}};
  for (const auto& shape : shapes) {
    test_weights(shape[0], shape[1], random);
    for (int rank : {1, 5, 16, 64, 200}) test_u(shape[0], rank, random), test_v(rank, shape[1], random);
  }
  std::printf("ok\n");
}
