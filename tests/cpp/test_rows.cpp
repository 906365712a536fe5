// Every variant of the 2:4 row product that this machine can run, against a plain sum in f64.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cpu/formats/nm24_rows.hpp"

using namespace sparlow;

namespace {

struct Row {
  std::vector<float> values, x;
  std::vector<std::uint8_t> meta;
  Index groups, stride;

  Row(Index groups, int tokens, std::mt19937& random)
      : values(2 * groups),
        x(tokens * (4 * groups + 3)),
        meta((groups + 1) / 2),
        groups(groups),
        stride(4 * groups + 3) {
    std::normal_distribution<float> normal;
    constexpr int legal[6] = {0x4, 0x8, 0xC, 0x9, 0xD, 0xE};
    for (float& value : values) value = std::round(normal(random) * 32) / 32;  // exact in 16 bits
    for (float& value : x) value = normal(random);
    for (Index g = 0; g < groups; ++g) meta[g / 2] |= legal[random() % 6] << (4 * (g % 2));
  }
  double sum(int token, double* size) const {
    double total = 0;
    *size = 0;
    for (Index g = 0; g < groups; ++g) {
      const int nibble = g % 2 ? meta[g / 2] >> 4 : meta[g / 2] & 15;
      for (int i = 0; i < 2; ++i) {
        const double term = double{values[2 * g + i]} * x[token * stride + 4 * g + (i ? nibble >> 2 : nibble & 3)];
        total += term, *size += std::abs(term);
      }
    }
    return total;
  }
};

}  // namespace

TEST_SUITE("formats") {
  TEST_CASE("2:4 row products of every instruction set") {
    std::mt19937 random(3);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (cpu::Nm24Row* product : cpu::nm24_rows(dtype))
        for (const Index groups : {1, 3, 4, 5, 16, 33, 257})
          for (int tokens = 1; tokens <= cpu::kRowTokens; ++tokens) {
            const Row row(groups, tokens, random);
            std::vector<std::uint8_t> stored(8 * groups);
            cpu::narrow(row.values.data(), dtype, 2 * groups, stored.data());
            float sums[cpu::kRowTokens];
            product(stored.data(), row.meta.data(), groups, row.x.data(), row.stride, tokens, sums);
            for (int t = 0; t < tokens; ++t) {
              double size = 0;
              const double want = row.sum(t, &size);
              CHECK(std::abs(sums[t] - want) <= 1e-6 * size);
            }
          }
  }

  TEST_CASE("narrowing rounds to nearest even and keeps NaN") {
    const float values[] = {1.0f, 1.00390625f, 1.01171875f, -0.0f, 1e30f, std::nanf("")};
    std::uint16_t bf16[6];
    cpu::narrow(values, DType::bf16, 6, bf16);
    float back[6];
    cpu::widen(bf16, DType::bf16, 6, back);
    CHECK(back[0] == 1.0f);
    CHECK(back[1] == 1.0f);       // halfway between 1 and 1 + 2^-7: the even one
    CHECK(back[2] == 1.015625f);  // halfway again, the other way
    CHECK(std::signbit(back[3]));
    CHECK(std::abs(back[4] / 1e30f - 1) < 4e-3);
    CHECK(std::isnan(back[5]));
  }
}
