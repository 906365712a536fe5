#include <cmath>

#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("factor");

namespace {

// A Gram matrix with unit diagonal, as solvers factor it.
Dense unit_gram(Index size, unsigned seed) {
  Dense gram = gram_of(size, 2 * size + 3, seed);
  std::vector<double> norms;
  for (Index j = 0; j < size; ++j) norms.push_back(std::sqrt(gram(j, j)));
  for (Index i = 0; i < size; ++i)
    for (Index j = 0; j < size; ++j)
      gram(i, j) = i == j ? 1
                          : static_cast<float>(
                                gram(i, j) / (norms[static_cast<std::size_t>(i)] * norms[static_cast<std::size_t>(j)]));
  return gram;
}

// |y (gram + shift I) - x gram| relative to |x|: needs no reference inverse.
double backward_error(const Dense& y, const Dense& gram, double shift, const Dense& x) {
  const Dense back = added(1, product(y, gram), shift, y);
  return difference(back, product(x, gram)) / (1 + largest(x));
}

}  // namespace

TEST_CASE("apply_smoother multiplies by h (h + shift I)^-1, for several shifts in turn") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (Index size : {1, 3, 17, 129, 401})
      for (Index pad : {0, 3}) {
        const Dense gram = unit_gram(size, 1), x = normal(5, size, 2);
        const Placed device_gram = place(backend, gram, pad), device_x = place(backend, x, pad);
        const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
        CHECK(factor->size() == size);
        for (double shift : {0.1, 1.0, 0.03, 0.1}) {
          factor->set_shift(shift);
          const Placed y = place(backend, Dense(5, size), pad);
          factor->apply_smoother(device_x, y);
          const double condition = (static_cast<double>(size) + shift) / shift;
          CHECK(backward_error(fetch(backend, y), gram, shift, x) <= tolerance * condition);
          CHECK(guards_intact(backend, y));
        }
        CHECK(same_bits(fetch(backend, factor->matrix()), gram));
      }
  });
}

TEST_CASE("shifts that come again give the same bits, whichever way they are reached") {
  on_every_backend([](Backend& backend, double) {
    for (Index size : {33, 401}) {
      const Dense gram = unit_gram(size, 1), x = normal(300, size, 2);
      const Placed device_gram = place(backend, gram), device_x = place(backend, x);
      const std::unique_ptr<GramFactor> turns = backend.factor(device_gram);
      const std::vector<std::vector<double>> walks = {
          {0.1, 0.13, 0.15, 0.17},         {0.1, 0.13, 0.15, 0.17}, {0.1, 0.13, 0.15, 0.17, 0.2, 1.0, 1.1},
          {0.1, 0.13, 0.16, 0.2},          {0.1, 0.13, 0.16, 0.2},  {0.1, 0.02, 0.03},
          {0.1, 0.02, 0.03, 0.1, 0.12, 5}, {0.1, 0.13, 0.15, 0.17}};
      for (const std::vector<double>& walk : walks) {
        const std::unique_ptr<GramFactor> fresh = backend.factor(device_gram);
        for (double shift : walk) {
          turns->set_shift(shift);
          fresh->set_shift(shift);
          const Placed y = place(backend, Dense(300, size)), z = place(backend, Dense(300, size));
          turns->apply_smoother(device_x, y);
          fresh->apply_smoother(device_x, z);
          CHECK(same_bits(fetch(backend, y), fetch(backend, z)));
        }
      }
    }
  });
}

TEST_CASE("a shift that leaves the matrix indefinite is a numerical error; a later good shift works") {
  on_every_backend([](Backend& backend, double tolerance) {
    Dense indefinite = identity(17);
    indefinite(3, 9) = indefinite(9, 3) = 2;  // eigenvalues 3 and -1
    const Placed gram = place(backend, indefinite), x = place(backend, Dense(2, 17, 1)),
                 y = place(backend, Dense(2, 17));
    const std::unique_ptr<GramFactor> factor = backend.factor(gram);
    fails_with(ErrorCode::numerical, "not positive definite", [&] { factor->set_shift(0.5); });
    fails_with(ErrorCode::internal, "before set_shift", [&] { factor->apply_smoother(x, y); });
    factor->set_shift(1.5);
    factor->apply_smoother(x, y);
    CHECK(backward_error(fetch(backend, y), indefinite, 1.5, Dense(2, 17, 1)) <= 20 * tolerance);
    fails_with(ErrorCode::numerical, "not positive definite",
               [&] { backend.factor(place(backend, Dense(4, 4)))->set_shift(0); });
    fails_with(ErrorCode::numerical, "not positive definite",
               [&] { backend.factor(place(backend, identity(4)))->set_shift(-1); });
    refuses("the shift is nan", [&] { factor->set_shift(std::nan("")); });
  });
}

TEST_CASE("apply_smoother wants a shift first, matching shapes and separate memory") {
  on_every_backend([](Backend& backend, double) {
    const Placed gram = place(backend, identity(4));
    const std::unique_ptr<GramFactor> factor = backend.factor(gram);
    Matrix x = backend.matrix(2, 4), y = backend.matrix(2, 4), wide = backend.matrix(2, 5), tall = backend.matrix(3, 4);
    fails_with(ErrorCode::internal, "before set_shift", [&] { factor->apply_smoother(x, y); });
    factor->set_shift(1);
    refuses("x has 5 columns, the factor 4", [&] { factor->apply_smoother(wide, wide); });
    refuses("shapes 2 x 4 and 3 x 4 differ", [&] { factor->apply_smoother(x, tall); });
    refuses("overlaps", [&] { factor->apply_smoother(x, x); });
    factor->apply_smoother(x.view().row_slice(0, 0), y.view().row_slice(0, 0));
    Matrix flat = backend.matrix(2, 3);
    refuses("not square", [&] { backend.factor(flat); });
  });
}

TEST_CASE("smoother_diagonal is the diagonal of h (h + shift I)^-1") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (Index size : {1, 17, 129, 230}) {
      const Placed gram = place(backend, unit_gram(size, 4)), out = place(backend, Dense(1, size), 2);
      const Placed unit = place(backend, identity(size)), smoother = place(backend, Dense(size, size));
      const std::unique_ptr<GramFactor> factor = backend.factor(gram);
      fails_with(ErrorCode::internal, "before set_shift", [&] { factor->smoother_diagonal(out); });
      factor->set_shift(0.1);
      factor->smoother_diagonal(out);
      factor->apply_smoother(unit, smoother);
      const Dense diagonal = fetch(backend, out), all = fetch(backend, smoother);
      for (Index j = 0; j < size; ++j) CHECK(std::fabs(diagonal(0, j) - all(j, j)) <= 10 * tolerance);
      CHECK(guards_intact(backend, out));
      refuses("not 1 x", [&] { factor->smoother_diagonal(smoother.view.row_slice(0, 0)); });
    }
  });
}

TEST_CASE("small_eigh: ascending values, orthonormal vectors in columns, a = e diag e^T") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (Index size : {1, 2, 3, 17, 64}) {
      const Dense a = size == 2 ? from(2, 2, {2, 1, 1, 2}) : gram_of(size, size + 2, 3);
      const Placed vectors = place(backend, a, 2), values = place(backend, Dense(1, size));
      backend.small_eigh(vectors, values);
      const Dense e = fetch(backend, vectors), lambda = fetch(backend, values);
      Dense scaled = e;
      for (Index i = 0; i < size; ++i)
        for (Index j = 0; j < size; ++j) scaled(i, j) *= lambda(0, j);
      CHECK(difference(product(scaled, transposed(e)), a) <= 4 * tolerance * (1 + largest(a)));
      CHECK(difference(product(transposed(e), e), identity(size)) <= 10 * tolerance);
      for (Index j = 1; j < size; ++j) CHECK(lambda(0, j) >= lambda(0, j - 1));
      CHECK(guards_intact(backend, vectors));
    }
    Matrix zero = backend.matrix(3, 3), values = backend.matrix(1, 3), wrong = backend.matrix(3, 1),
           none = backend.matrix(0, 0), flat = backend.matrix(1, 0);
    backend.small_eigh(zero, values);
    CHECK(same_bits(fetch(backend, values), Dense(1, 3)));
    backend.small_eigh(none, flat);
    refuses("values is not 1 x 3", [&] { backend.small_eigh(zero, wrong); });
    refuses("not square", [&] { backend.small_eigh(wrong, values); });
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
