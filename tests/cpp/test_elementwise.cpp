#include <algorithm>
#include <cmath>
#include <limits>

#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("elementwise");

namespace {

constexpr std::pair<Index, Index> kShapes[] = {{1, 1}, {3, 1}, {1, 3}, {17, 129}, {129, 17}, {300, 400}};
const double kNan = std::nan("");
constexpr double kInf = std::numeric_limits<double>::infinity();

Dense checkerboard(Index rows, Index cols) {
  Dense mask(rows, cols);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) mask(i, j) = (i + j) % 2 == 0;
  return mask;
}

}  // namespace

TEST_CASE("axpby") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const auto& [rows, cols] : kShapes)
      for (const auto& [alpha, beta] : {std::pair{1.0, 1.0}, {-1.0, 1.0}, {0.25, -3.0}, {2.0, 0.0}}) {
        const Dense x = normal(rows, cols, 1), y = normal(rows, cols, 2);
        const Placed device_y = place(backend, y, 3);
        backend.axpby(alpha, place(backend, x, 1), beta, device_y);
        CHECK(difference(fetch(backend, device_y), added(alpha, x, beta, y)) <= 4 * tolerance);
        CHECK(guards_intact(backend, device_y));
      }
    Matrix a = backend.matrix(2, 3), b = backend.matrix(3, 3);
    refuses("axpby: shapes 2 x 3 and 3 x 3 differ", [&] { backend.axpby(1, a, 1, b); });
  });
}

TEST_CASE("shrink moves towards zero and keeps NaN") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const auto& [rows, cols] : kShapes)
      for (double threshold : {0.0, 0.7, 100.0}) {
        const Dense x = normal(rows, cols, 7);
        Dense expected = x;
        for (double& value : expected.values) {
          const double rest = std::max(0.0, std::abs(value) - threshold);
          value = value < 0 ? -rest : rest;
        }
        const Placed device = place(backend, x, 3);
        backend.shrink(device, threshold);
        CHECK(difference(fetch(backend, device), expected) <= tolerance);
        CHECK(guards_intact(backend, device));
      }
    const Placed odd = place(backend, from(1, 4, {kNan, kInf, -1, 1}));
    backend.shrink(odd, 1);
    CHECK(same_bits(fetch(backend, odd), from(1, 4, {kNan, kInf, 0, 0})));
    refuses("shrink: the threshold is -1", [&] { backend.shrink(odd, -1); });
  });
}

TEST_CASE("axpby with beta 0 does not read y") {
  on_every_backend([](Backend& backend, double) {
    const Placed y = place(backend, Dense(3, 5, kNan));
    backend.axpby(2, place(backend, Dense(3, 5, 4)), 0, y);
    CHECK(same_bits(fetch(backend, y), Dense(3, 5, 8)));
  });
}

TEST_CASE("scale_columns multiplies, divides, and clears columns of scale 0 when dividing") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const auto& [rows, cols] : kShapes) {
      const Dense x = normal(rows, cols, 3);
      Dense scale = normal(1, cols, 4);
      if (cols > 2) scale(0, 2) = 0;
      for (bool inverse : {false, true}) {
        Dense expected = x;
        for (Index i = 0; i < rows; ++i)
          for (Index j = 0; j < cols; ++j) {
            const double s = scale(0, j);
            expected(i, j) = inverse ? (s == 0 ? 0 : x(i, j) / s) : x(i, j) * s;
          }
        const Placed device = place(backend, x, 3);
        backend.scale_columns(device, place(backend, scale), inverse);
        CHECK(difference(fetch(backend, device), expected) <= tolerance * (1 + largest(expected)));
        CHECK(guards_intact(backend, device));
      }
    }
    Matrix x = backend.matrix(2, 3), scale = backend.matrix(3, 1);
    refuses("scale is not 1 x 3", [&] { backend.scale_columns(x, scale, false); });
  });
}

TEST_CASE("scale_by_mask scales both parts; factor 0 clears NaN and leaves no negative zero") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const auto& [rows, cols] : kShapes) {
      const Dense x = normal(rows, cols, 5), mask = checkerboard(rows, cols);
      const Mask device_mask = mask_of(backend, mask);
      for (const auto& [kept, pruned] : {std::pair{1.0, -1.0}, {1.0, 0.25}, {0.0, 1.0}, {1.0, 0.0}, {2.0, 0.0}}) {
        Dense expected = x;
        for (std::size_t i = 0; i < x.values.size(); ++i) expected.values[i] *= mask.values[i] != 0 ? kept : pruned;
        const Placed device = place(backend, x, 3);
        backend.scale_by_mask(device, device_mask, kept, pruned);
        CHECK(difference(fetch(backend, device), expected) <= tolerance);
        CHECK(guards_intact(backend, device));
      }
    }
    const Mask mask = mask_of(backend, from(1, 6, {1, 1, 0, 0, 0, 1}));
    const Placed pruned = place(backend, from(1, 6, {1, -2, kNan, -kInf, -3, -0.0}));
    backend.scale_by_mask(pruned, mask, 1, 0);
    CHECK(same_bits(fetch(backend, pruned), from(1, 6, {1, -2, 0, 0, 0, -0.0})));
    const Placed cleared = place(backend, from(1, 6, {kNan, -kInf, 7, 7, 7, -1}));
    backend.scale_by_mask(cleared, mask, 0, 1);
    CHECK(same_bits(fetch(backend, cleared), from(1, 6, {0, 0, 7, 7, 7, 0})));
    Matrix x = backend.matrix(2, 3);
    refuses("scale_by_mask: shapes 2 x 3 and 1 x 6 differ", [&] { backend.scale_by_mask(x, mask, 1, 0); });
  });
}

TEST_CASE("nonzeros: both zeros are zero, NaN and denormals are not") {
  on_every_backend([](Backend& backend, double) {
    const Dense x = from(2, 4, {0.0, -0.0, 1e-40, kNan, -1, kInf, 0, 3});
    Mask mask = backend.mask(2, 4);
    backend.nonzeros(place(backend, x, 1), mask);
    CHECK(same_bits(fetch_mask(backend, mask), from(2, 4, {0, 0, 1, 1, 1, 1, 0, 1})));
    Mask other = backend.mask(4, 2);
    refuses("nonzeros: shapes", [&] { backend.nonzeros(place(backend, x), other); });
  });
}

TEST_CASE("signs: both zeros are positive, NaN is not") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : kShapes) {
      const Dense x = normal(rows, cols, 6);
      Dense expected(rows, cols);
      for (std::size_t i = 0; i < x.values.size(); ++i) expected.values[i] = x.values[i] >= 0;
      Mask mask = backend.mask(rows, cols);
      backend.signs(place(backend, x, 3), mask);
      CHECK(same_bits(fetch_mask(backend, mask), expected));
    }
    const Dense x = from(2, 3, {0.0, -0.0, -1e-40, kNan, -kInf, kInf});
    Mask mask = backend.mask(2, 3), other = backend.mask(3, 2);
    backend.signs(place(backend, x), mask);
    CHECK(same_bits(fetch_mask(backend, mask), from(2, 3, {1, 1, 0, 0, 0, 1})));
    refuses("signs: shapes 2 x 3 and 3 x 2 differ", [&] { backend.signs(place(backend, x), other); });
  });
}

TEST_CASE("fetch_changed counts the entries that differ") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : kShapes) {
      Dense a = checkerboard(rows, cols), b(rows, cols);
      Index expected = 0;
      for (double value : a.values) expected += value != 0;
      const Mask device_a = mask_of(backend, a), device_b = mask_of(backend, b);
      CHECK(backend.fetch_changed(device_a, device_b) == expected);
      CHECK(backend.fetch_changed(device_a, device_a) == 0);
    }
    const Mask a = backend.mask(2, 3), b = backend.mask(3, 2);
    refuses("fetch_changed: shapes", [&] { backend.fetch_changed(a, b); });
  });
}

TEST_CASE("fetch_all_finite finds one bad entry anywhere, and only inside the view") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : kShapes) {
      const Dense good = normal(rows, cols, 6);
      CHECK(backend.fetch_all_finite(place(backend, good, 3)));
      for (double poison : {kNan, kInf, -kInf}) {
        Dense bad = good;
        bad(rows - 1, cols - 1) = poison;
        CHECK_FALSE(backend.fetch_all_finite(place(backend, bad, 3)));
      }
    }
    const Placed parent = place(backend, from(2, 3, {1, 2, kNan, 4, 5, kInf}));
    CHECK(backend.fetch_all_finite(parent.view.col_slice(0, 2)));
    CHECK(backend.fetch_all_finite(place(backend, from(1, 3, {3e38, 1e-45, -0.0}))));
    CHECK(backend.fetch_all_finite(parent.view.row_slice(0, 0)));
  });
}

TEST_CASE("randn depends on seed and shape only, and is standard normal") {
  on_every_backend([](Backend& backend, double) {
    const Placed a = place(backend, Dense(129, 333)), b = place(backend, Dense(129, 333), 7),
                 c = place(backend, Dense(129, 333));
    backend.randn(a, 42);
    backend.randn(b, 42);
    backend.randn(c, 43);
    const Dense x = fetch(backend, a);
    CHECK(same_bits(x, fetch(backend, b)));
    CHECK(guards_intact(backend, b));
    CHECK_FALSE(same_bits(x, fetch(backend, c)));
    const double count = static_cast<double>(x.values.size());
    double mean = 0, square = 0, fourth = 0, neighbours = 0;
    for (std::size_t i = 0; i < x.values.size(); ++i) {
      const double v = x.values[i];
      mean += v / count;
      square += v * v / count;
      fourth += v * v * v * v / count;
      if (i > 0) neighbours += v * x.values[i - 1] / count;
    }
    CHECK(std::fabs(mean) < 0.02);
    CHECK(std::fabs(square - 1) < 0.03);
    CHECK(std::fabs(fourth - 3) < 0.25);
    CHECK(std::fabs(neighbours) < 0.02);
    CHECK(backend.fetch_all_finite(a));
  });
}

TEST_CASE("backends draw the same random numbers") {
  const std::unique_ptr<Backend> cpu = make_cpu_backend();
  const Placed reference = place(*cpu, Dense(17, 33));
  cpu->randn(reference, 7);
  on_every_backend([&](Backend& backend, double) {
    const Placed x = place(backend, Dense(17, 33));
    backend.randn(x, 7);
    CHECK(difference(fetch(backend, x), fetch(*cpu, reference)) < 1e-5);
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
