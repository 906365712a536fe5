#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("project");

namespace {

const double kNan = std::nan("");
constexpr double kInf = std::numeric_limits<double>::infinity();

double rank_of(double value) { return std::isnan(value) ? kInf : std::fabs(value); }

// Keeps the `kept` largest of the entries at `indices`, the lowest index first among equals.
void keep_best(const Dense& score, std::vector<std::size_t> indices, Index kept, Dense& mask) {
  std::stable_sort(indices.begin(), indices.end(),
                   [&](std::size_t a, std::size_t b) { return rank_of(score.values[a]) > rank_of(score.values[b]); });
  for (Index i = 0; i < kept; ++i) mask.values[indices[static_cast<std::size_t>(i)]] = 1;
}

// The same in f64 by sorting: groups of `length` consecutive entries.
Dense reference(const Dense& score, const Pattern& pattern) {
  Dense mask(score.rows, score.cols, pattern.kind == Pattern::Kind::dense ? 1 : 0);
  if (pattern.kind == Pattern::Kind::dense) return mask;
  const Index all = score.rows * score.cols;
  const Index length = pattern.kind == Pattern::Kind::nm    ? pattern.m
                       : pattern.kind == Pattern::Kind::row ? score.cols
                                                            : all;
  const Index kept = pattern.kept(score.rows, score.cols) / (all / length);
  for (Index begin = 0; begin < all; begin += length) {
    std::vector<std::size_t> indices(static_cast<std::size_t>(length));
    std::iota(indices.begin(), indices.end(), static_cast<std::size_t>(begin));
    keep_best(score, indices, kept, mask);
  }
  return mask;
}

Dense projected(Backend& backend, const Dense& score, const Pattern& pattern, Index pad = 0) {
  Mask mask = backend.mask(score.rows, score.cols);
  backend.project(place(backend, score, pad), pattern, mask);
  return fetch_mask(backend, mask);
}

const std::string kPatterns[] = {"dense", "2:4",     "1:4",      "3:4",        "2:8",         "4:8",       "1:2",
                                 "5:12",  "0.5@row", "0.25@row", "0.5@matrix", "0.07@matrix", "0.9@matrix"};

Index columns_for(const Pattern& pattern, Index at_least) {
  return pattern.kind == Pattern::Kind::nm ? (at_least + pattern.m - 1) / pattern.m * pattern.m : at_least;
}

}  // namespace

TEST_CASE("every pattern keeps the largest entries of odd shapes and strided views") {
  on_every_backend([](Backend& backend, double) {
    for (const std::string& text : kPatterns) {
      CAPTURE(text);
      const Pattern pattern = Pattern::parse(text);
      for (const auto& [rows, least] : {std::pair<Index, Index>{1, 20}, {3, 17}, {17, 3}, {129, 129}, {5, 1200}}) {
        const Index cols = columns_for(pattern, least);
        const Dense score = normal(rows, cols, 3);
        for (Index pad : {0, 3}) CHECK(same_bits(projected(backend, score, pattern, pad), reference(score, pattern)));
      }
    }
  });
}

TEST_CASE("ties keep the lowest index, and signs and negative zero do not matter") {
  on_every_backend([](Backend& backend, double) {
    for (const std::string& text : kPatterns) {
      CAPTURE(text);
      const Pattern pattern = Pattern::parse(text);
      const Index cols = columns_for(pattern, 24);
      Dense equal(5, cols, 1), zeros(5, cols), few(5, cols);
      for (std::size_t i = 0; i < equal.values.size(); ++i) {
        if (i % 3 == 0) equal.values[i] = -1;
        if (i % 2 == 0) zeros.values[i] = -0.0;
        few.values[i] = static_cast<double>((i * 7) % 3) * (i % 2 == 0 ? -1 : 1);
      }
      for (const Dense& score : {equal, zeros, few})
        CHECK(same_bits(projected(backend, score, pattern), reference(score, pattern)));
    }
    CHECK(same_bits(projected(backend, Dense(1, 4, 5), Pattern::parse("2:4")), from(1, 4, {1, 1, 0, 0})));
    CHECK(same_bits(projected(backend, from(1, 4, {1, -2, 2, -2}), Pattern::parse("2:4")), from(1, 4, {0, 1, 1, 0})));
    CHECK(same_bits(projected(backend, Dense(2, 3, 1), Pattern::parse("0.5@matrix")), from(2, 3, {1, 1, 1, 0, 0, 0})));
  });
}

TEST_CASE("infinities and NaN rank first, and the count stays exact") {
  on_every_backend([](Backend& backend, double) {
    const Pattern groups = Pattern::parse("2:4");
    const double values[] = {kNan, kInf, -kInf, 0, 1, 2, 3, -3};
    // Every group of four out of eight values: 4096 groups.
    Dense score(64, 256);
    for (std::size_t g = 0; g < 4096; ++g)
      for (std::size_t i = 0; i < 4; ++i) score.values[4 * g + i] = values[(g >> (3 * i)) % 8];
    const Dense mask = projected(backend, score, groups);
    for (std::size_t g = 0; g < 4096; ++g) {
      double kept = 0, kept_bad = 0, bad = 0;
      for (std::size_t i = 4 * g; i < 4 * g + 4; ++i) {
        kept += mask.values[i];
        bad += std::isnan(score.values[i]);
        kept_bad += std::isnan(score.values[i]) && mask.values[i] != 0;
      }
      REQUIRE(kept == 2);
      REQUIRE(kept_bad == std::min(bad, 2.0));
    }
    for (const std::string text : {"3:8", "0.25@row", "0.25@matrix"}) {
      CAPTURE(text);
      const Pattern pattern = Pattern::parse(text);
      const Dense other = projected(backend, score, pattern);
      CHECK(std::accumulate(other.values.begin(), other.values.end(), 0.0) == pattern.kept(64, 256));
    }
  });
}

TEST_CASE("without NaN, infinities are ordered like numbers") {
  on_every_backend([](Backend& backend, double) {
    CHECK(same_bits(projected(backend, from(1, 4, {1, -kInf, 2, kInf}), Pattern::parse("2:4")),
                    from(1, 4, {0, 1, 0, 1})));
    CHECK(same_bits(projected(backend, from(1, 4, {1e-45, 1e-44, 3e38, 0}), Pattern::parse("2:4")),
                    from(1, 4, {0, 1, 1, 0})));
  });
}

TEST_CASE("row and matrix densities round to the nearest count") {
  on_every_backend([](Backend& backend, double) {
    for (const char* text : {"0.3@row", "0.5@row", "0.99@row", "0.3@matrix", "0.99@matrix"}) {
      const Pattern pattern = Pattern::parse(text);
      const Dense mask = projected(backend, normal(7, 17, 4), pattern);
      CHECK(std::accumulate(mask.values.begin(), mask.values.end(), 0.0) == pattern.kept(7, 17));
    }
  });
}

TEST_CASE("a row alone projects as it does among others") {
  on_every_backend([](Backend& backend, double) {
    const Dense score = normal(9, 24, 5);
    for (const char* text : {"2:4", "3:8", "0.5@row"}) {
      const Pattern pattern = Pattern::parse(text);
      const Dense all = projected(backend, score, pattern);
      CHECK(same_bits(projected(backend, rows_of(score, 4, 1), pattern), rows_of(all, 4, 1)));
    }
  });
}

TEST_CASE("shapes that cannot carry the pattern are refused") {
  on_every_backend([](Backend& backend, double) {
    Matrix x = backend.matrix(2, 6), empty = backend.matrix(0, 4);
    Mask mask = backend.mask(2, 6), none = backend.mask(0, 4), other = backend.mask(6, 2);
    refuses("d_in = 6 is not divisible by 4", [&] { backend.project(x, Pattern::parse("2:4"), mask); });
    refuses("is empty", [&] { backend.project(empty, Pattern::parse("2:4"), none); });
    refuses("project: shapes", [&] { backend.project(x, Pattern::parse("dense"), other); });
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
