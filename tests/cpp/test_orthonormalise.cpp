#include <cmath>

#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("orthonormalise");

namespace {

double orthogonality(const Dense& q) { return difference(product(transposed(q), q), identity(q.cols)); }

// Part of each column of y outside the span of q, relative to the column's norm.
double escape(const Dense& q, const Dense& y) {
  const Dense inside = product(q, product(transposed(q), y));
  double most = 0;
  for (Index j = 0; j < y.cols; ++j) {
    double norm = 0, gap = 0;
    for (Index i = 0; i < y.rows; ++i) {
      norm += y(i, j) * y(i, j);
      gap += (y(i, j) - inside(i, j)) * (y(i, j) - inside(i, j));
    }
    if (norm > 0) most = std::max(most, std::sqrt(gap / norm));
  }
  return most;
}

void check_basis(Backend& backend, double tolerance, const Dense& y, Index pad = 0) {
  const Placed device = place(backend, y, pad);
  backend.orthonormalise(device);
  const Dense q = fetch(backend, device);
  CHECK(orthogonality(q) <= 4 * tolerance);
  CHECK(escape(q, y) <= 20 * tolerance);
  CHECK(guards_intact(backend, device));
}

Dense rounded_to_f32(Dense x) {
  for (double& value : x.values) value = static_cast<float>(value);
  return x;
}

}  // namespace

TEST_CASE("random matrices of odd shapes, strided too") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {3, 3}, {17, 3}, {129, 17}, {300, 64}, {129, 129}})
      for (Index pad : {0, 3}) {
        CAPTURE(rows);
        CAPTURE(cols);
        check_basis(backend, tolerance, normal(rows, cols, 1), pad);
      }
  });
}

TEST_CASE("columns of very different norms, as they come from a Gram matrix") {
  on_every_backend([](Backend& backend, double tolerance) {
    Dense y = normal(129, 17, 2);
    for (Index i = 0; i < 129; ++i)
      for (Index j = 0; j < 17; ++j) y(i, j) *= std::pow(10.0, static_cast<double>(j) - 8);
    check_basis(backend, tolerance, rounded_to_f32(y));
  });
}

TEST_CASE("nearly parallel columns") {
  on_every_backend([](Backend& backend, double tolerance) {
    const Dense common = normal(129, 1, 3), noise = normal(129, 9, 4);
    for (double gap : {1e-2, 1e-4, 1e-6, 1e-7}) {
      CAPTURE(gap);
      Dense y(129, 9);
      for (Index i = 0; i < 129; ++i)
        for (Index j = 0; j < 9; ++j) y(i, j) = common(i, 0) + gap * noise(i, j);
      check_basis(backend, tolerance, rounded_to_f32(y));
    }
  });
}

TEST_CASE("rank-deficient input still gives a full orthonormal basis that contains the column space") {
  on_every_backend([](Backend& backend, double tolerance) {
    check_basis(backend, tolerance, Dense(17, 5));  // zero
    check_basis(backend, tolerance, rounded_to_f32(product(normal(129, 3, 5), normal(3, 12, 6))));
    Dense repeated = normal(33, 4, 7);
    for (Index i = 0; i < 33; ++i) {
      repeated(i, 2) = repeated(i, 0);
      repeated(i, 3) = 0;
    }
    check_basis(backend, tolerance, repeated);
  });
}

TEST_CASE("an orthonormal matrix keeps its span, and extreme magnitudes do not overflow") {
  on_every_backend([](Backend& backend, double tolerance) {
    const Placed q = place(backend, normal(65, 16, 8));
    backend.orthonormalise(q);
    check_basis(backend, tolerance, fetch(backend, q));
    for (double scale : {1e-30, 1e30}) {
      Dense y = normal(65, 16, 9);
      for (double& value : y.values) value = static_cast<float>(value * scale);
      check_basis(backend, tolerance, y);
    }
  });
}

TEST_CASE("wide matrices are refused; empty ones are left alone") {
  on_every_backend([](Backend& backend, double) {
    Matrix wide = backend.matrix(3, 4), empty = backend.matrix(3, 0);
    refuses("3 rows cannot hold 4 orthonormal columns", [&] { backend.orthonormalise(wide); });
    backend.orthonormalise(empty);
  });
}

TEST_CASE("NaN comes out as NaN instead of a plausible basis") {
  on_every_backend([](Backend& backend, double) {
    Dense y = normal(17, 3, 10);
    y(5, 1) = std::nan("");
    const Placed device = place(backend, y);
    backend.orthonormalise(device);
    CHECK_FALSE(backend.fetch_all_finite(device));
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
