// The parts of the runtime that have a reference of their own: numbers of 16 bits, sampling, attention, norms.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cpu_ops.hpp"
#include "sampler.hpp"

namespace llama::test {
TEST_SUITE_BEGIN("parts");

namespace {

std::vector<float> waves(std::size_t count, double speed) {
  std::vector<float> out;
  for (std::size_t i = 0; i < count; ++i)
    out.push_back(static_cast<float>(std::sin(speed * static_cast<double>(i + 1))));
  return out;
}

}  // namespace

TEST_CASE("numbers of 16 bits: exact there and back, rounded to even") {
  for (const sparlow_dtype dtype : {SPARLOW_BF16, SPARLOW_F16})
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
      const auto stored = static_cast<std::uint16_t>(bits);
      float value;
      std::uint16_t again;
      convert(&stored, dtype, &value, SPARLOW_F32, 1);
      convert(&value, SPARLOW_F32, &again, dtype, 1);
      if (!std::isnan(value)) REQUIRE(again == stored);
      else REQUIRE(std::isnan(value));
    }
  CHECK(rounded<Bf16>(1.00390625f) == 1.0f);       // half a step above 1: to even
  CHECK(rounded<Bf16>(1.01171875f) == 1.015625f);  // half a step above 1.0078125
  CHECK(rounded<F16>(2049.0f) == 2048.0f);
  CHECK(rounded<F16>(2051.0f) == 2052.0f);
  CHECK(rounded<F16>(65520.0f) == std::numeric_limits<float>::infinity());
  CHECK(rounded<F16>(5.9e-8f) == 0x1p-24f);
}

TEST_CASE("samples follow the probabilities, top_p leaves the likeliest") {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  Sampler sampler;
  const auto shares = [&](const Sampling& sampling) {
    std::vector<double> counts(4);
    for (std::uint64_t i = 0; i < 20000; ++i)
      counts[static_cast<std::size_t>(sampler.sample(logits, sampling, i))] += 1.0 / 20000;
    return counts;
  };
  const auto all = shares({1, 1, 5});
  for (std::size_t i = 0; i < 4; ++i) CHECK(all[i] == doctest::Approx(std::exp(logits[i])).epsilon(0.1));
  const auto two = shares({1, 0.75f, 5});
  CHECK(two[0] == doctest::Approx(0.625).epsilon(0.05));
  CHECK(two[2] + two[3] == 0);
  const auto three = shares({1, 0.81f, 5});
  CHECK(three[2] > 0.1);
  CHECK(three[3] == 0);
  const auto cold = shares({0.5f, 1, 5});
  CHECK(cold[0] == doctest::Approx(0.25 / 0.365).epsilon(0.05));
  CHECK(shares({1, 1e-6f, 5})[0] == doctest::Approx(1));
}

TEST_CASE("the first of the largest; no choice among what is no number") {
  CHECK(likeliest(std::vector<float>{1, 3, 3, -1}) == 1);
  CHECK_THROWS_WITH(likeliest(std::vector<float>{1, NAN, 3}), "the model's logits are not numbers");
}

TEST_CASE("attention is a weighted mean") {
  for (const int count : {1, 63, 64, 65, 200})
    for (const int dim : {24, 64}) {
      const auto q = waves(static_cast<std::size_t>(dim), 3.7), k = waves(static_cast<std::size_t>(count * dim), 1.3),
                 v = waves(static_cast<std::size_t>(count * dim), 2.1);
      std::vector<float> out(static_cast<std::size_t>(dim));
      cpu::attend(SPARLOW_F32, q.data(), k.data(), v.data(), count, dim, out.data());
      std::vector<double> sums(out.size());
      double total = 0;
      for (int i = 0; i < count; ++i) {
        double dot = 0;
        for (int j = 0; j < dim; ++j) dot += double{q[j]} * k[i * dim + j];
        const double weight = std::exp(dot / std::sqrt(dim));
        total += weight;
        for (int j = 0; j < dim; ++j) sums[j] += weight * v[i * dim + j];
      }
      for (int j = 0; j < dim; ++j) CHECK(out[j] == doctest::Approx(sums[j] / total).epsilon(1e-4));
    }
}

TEST_CASE("norms, rotation and silu against double precision") {
  constexpr int kWidth = 40;
  auto hidden = waves(kWidth, 0.9), gate = waves(kWidth, 4.0);
  const auto before = hidden, y = waves(kWidth, 0.4), weight = waves(kWidth, 1.7), gates = gate;
  std::vector<float> out(kWidth);
  cpu::add_norm(SPARLOW_F32, hidden.data(), y.data(), weight.data(), 1e-5f, out.data(), kWidth);
  double squares = 0;
  for (int i = 0; i < kWidth; ++i) squares += std::pow(double{before[i]} + y[i], 2);
  for (int i = 0; i < kWidth; ++i) {
    CHECK(hidden[i] == before[i] + y[i]);
    const double expected = (double{before[i]} + y[i]) / std::sqrt(squares / kWidth + 1e-5) * weight[i];
    CHECK(out[i] == doctest::Approx(expected).epsilon(1e-5));
  }
  cpu::silu_multiply(SPARLOW_F32, gate.data(), y.data(), kWidth);
  for (int i = 0; i < kWidth; ++i)
    CHECK(gate[i] == doctest::Approx(gates[i] / (1 + std::exp(-double{gates[i]})) * y[i]).epsilon(1e-5));
  const std::vector<float> cosines = {0.6f, 1.0f}, sines = {0.8f, 0.0f};
  std::vector<float> heads = {1, 2, 3, 4, 5, 6, 7, 8};
  cpu::rotate(SPARLOW_F32, heads.data(), cosines.data(), sines.data(), 2, 4);
  CHECK(heads[0] == doctest::Approx(0.6 * 1 - 0.8 * 3));
  CHECK(heads[2] == doctest::Approx(0.6 * 3 + 0.8 * 1));
  CHECK(heads[1] == 2);
  CHECK(heads[4] == doctest::Approx(0.6 * 5 - 0.8 * 7));
}

TEST_SUITE_END();
}  // namespace llama::test
