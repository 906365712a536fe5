// The inverse factor of a Gram matrix and the pruning of columns with it.
#include <cmath>

#include "forwarding.hpp"
#include "sparlow/problem.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("columns");

namespace {

Dense unit_gram(Index size, unsigned seed = 1) {
  Dense gram = gram_of(size, 2 * size + 3, seed);
  Dense scale(1, size);
  for (Index j = 0; j < size; ++j) scale(0, j) = 1 / std::sqrt(gram(j, j));
  for (Index i = 0; i < size; ++i)
    for (Index j = 0; j < size; ++j)
      gram(i, j) = i == j ? 1.01 : static_cast<float>(gram(i, j) * scale(0, i) * scale(0, j));
  return gram;
}

struct Factor {
  Placed u, diagonal;
  Factor(Backend& backend, const Dense& gram, Index pad = 0)
      : u(place(backend, Dense(gram.rows, gram.rows), pad)), diagonal(place(backend, Dense(1, gram.rows))) {
    backend.inverse_factor(place(backend, gram, pad), u, diagonal);
  }
};

struct Pruned {
  Dense w, error, mask;
};

Pruned prune(Backend& backend, const Factor& factor, const Dense& weight, const Pattern& pattern, const Dense& given,
             Index pad = 0) {
  const Placed w = place(backend, weight, pad), error = place(backend, Dense(weight.rows, weight.cols), pad);
  Mask mask = mask_of(backend, given);
  ColumnPruning block{w, factor.u, factor.diagonal, mask, error, pattern};
  backend.prune_columns(block);
  CHECK(guards_intact(backend, w));
  CHECK(guards_intact(backend, error));
  return {fetch(backend, w), fetch(backend, error), fetch_mask(backend, mask)};
}

// The recursion in f64, column by column, with the mask already known.
Pruned reference(const Dense& u, Dense w, const Dense& mask) {
  Dense error(w.rows, w.cols);
  for (Index i = 0; i < w.rows; ++i)
    for (Index j = 0; j < w.cols; ++j) {
      if (mask(i, j) != 0) continue;
      error(i, j) = w(i, j) / u(j, j);
      for (Index k = j + 1; k < w.cols; ++k) w(i, k) -= error(i, j) * u(j, k);
      w(i, j) = 0;
    }
  return {w, error, mask};
}

Dense ones(Index rows, Index cols) { return Dense(rows, cols, 1); }

}  // namespace

TEST_CASE("inverse_factor: upper triangular u with gram^-1 = u^T u") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (Index size : {1, 2, 63, 65, 129, 257, 700})
      for (Index pad : {0, 3}) {
        const Dense gram = unit_gram(size);
        const Factor factor(backend, gram, pad);
        const Dense u = fetch(backend, factor.u);
        double below = 0;
        for (Index i = 0; i < size; ++i) {
          for (Index j = 0; j < i; ++j) below = std::max(below, std::fabs(u(i, j)));
          CHECK(u(i, i) > 0);
          CHECK(fetch(backend, factor.diagonal)(0, i) == u(i, i));
        }
        CHECK(below == 0);
        const Dense unit = product(product(u, gram), transposed(u));
        CHECK(difference(unit, identity(size)) <= 400 * tolerance * std::sqrt(static_cast<double>(size)));
        CHECK(guards_intact(backend, factor.u));
      }
  });
}

TEST_CASE("a Gram matrix that is not positive definite has no inverse factor") {
  on_every_backend([](Backend& backend, double) {
    Dense indefinite = identity(70), singular = identity(70);
    indefinite(3, 9) = indefinite(9, 3) = 2;
    singular(3, 69) = singular(69, 3) = 1;
    for (const Dense& gram : {indefinite, singular, Dense(5, 5)})
      fails_with(ErrorCode::numerical, "not positive definite", [&] { Factor(backend, gram); });
    Matrix gram = backend.matrix(4, 4), u = backend.matrix(4, 4), wide = backend.matrix(4, 5),
           diagonal = backend.matrix(1, 4);
    refuses("not square", [&] { backend.inverse_factor(wide, u, diagonal); });
    refuses("shapes 4 x 4 and 4 x 5 differ", [&] { backend.inverse_factor(gram, wide, diagonal); });
    refuses("diagonal is not 1 x 4", [&] { backend.inverse_factor(gram, u, wide); });
    refuses("overlaps", [&] { backend.inverse_factor(gram, gram, diagonal); });
  });
}

TEST_CASE("ScaledGram raises the damping until there is an inverse factor") {
  on_every_backend([](Backend& backend, double) {
    const Dense x = normal(10, 40, 5);  // fewer tokens than inputs: singular without damping
    const Placed gram = place(backend, product(transposed(x), x));
    ScaledGram scaled(backend, gram, {0, 0});
    const Dense u = fetch(backend, scaled.inverse_factor());
    CHECK(scaled.damping_used() > 0);
    CHECK(u(0, 0) == fetch(backend, scaled.inverse_factor_diagonal())(0, 0));
    const Dense damped = fetch(backend, scaled.scaled());
    CHECK(difference(product(product(u, damped), transposed(u)), identity(40)) < 0.3);
  });
}

TEST_CASE("prune_columns: the recursion of optimal brain surgeon, and the errors are what the loss rises by") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const std::string text : {"2:4", "1:4", "4:8", "5:12", "3:50", "0.5@row", "0.3@matrix", "dense"})
      for (Index cols : {12, 24, 48, 100, 132, 200, 300}) {
        const Pattern pattern = Pattern::parse(text);
        if (pattern.kind == Pattern::Kind::nm && cols % pattern.m != 0) continue;
        CAPTURE(text);
        CAPTURE(cols);
        const Dense gram = unit_gram(cols, 3), w = normal(19, cols, 4);
        const Factor factor(backend, gram);
        Mask given = backend.mask(19, cols);
        if (pattern.kind != Pattern::Kind::nm) backend.project(place(backend, w), pattern, given);
        for (Index pad : {0, 3}) {
          const Pruned found = prune(backend, factor, w, pattern, fetch_mask(backend, given), pad);
          const Pruned expected = reference(fetch(backend, factor.u), w, found.mask);
          const double bound = 2000 * tolerance * (1 + largest(expected.w));
          CHECK(difference(found.w, expected.w) <= bound);
          CHECK(difference(found.error, expected.error) <= bound);
          double squares = 0;
          for (double e : found.error.values) squares += e * e;
          CHECK(quadratic(added(1, w, -1, found.w), gram) == doctest::Approx(squares).epsilon(1e-3));
        }
      }
  });
}

TEST_CASE("an n:m group keeps its n largest w_j / u_jj of the moment, as the default body does") {
  on_every_backend([](Backend& backend, double tolerance) {
    Forwarding plain(backend);
    for (const std::string text : {"2:4", "1:2", "4:8", "5:12", "60:120"}) {
      CAPTURE(text);
      const Pattern pattern = Pattern::parse(text);
      const Dense w = normal(37, 120, 6);
      const Factor factor(backend, unit_gram(120, 7));
      const Pruned found = prune(backend, factor, w, pattern, ones(37, 120), 1),
                   expected = prune(plain, factor, w, pattern, ones(37, 120));
      CHECK(same_bits(found.mask, expected.mask));
      CHECK(difference(found.w, expected.w) <= 2000 * tolerance * (1 + largest(expected.w)));
    }
    const Factor unit(backend, identity(8));  // nothing to make up: plain projections
    const Pruned ties = prune(backend, unit, from(1, 8, {1, -1, 1, 1, 0, 0, 0, 0}), Pattern::parse("2:4"), ones(1, 8));
    CHECK(same_bits(ties.mask, from(1, 8, {1, 1, 0, 0, 1, 1, 0, 0})));
    CHECK(same_bits(ties.error, from(1, 8, {0, 0, 1, 1, 0, 0, 0, 0})));
  });
}

TEST_CASE("prune_columns refuses shapes that do not fit") {
  on_every_backend([](Backend& backend, double) {
    Matrix w = backend.matrix(3, 8), error = backend.matrix(3, 8), factor = backend.matrix(8, 8),
           diagonal = backend.matrix(1, 8), wide = backend.matrix(3, 9), small = backend.matrix(4, 4);
    Mask mask = backend.mask(3, 8);
    const auto run = [&](View x, ConstView u, ConstView d, View e, const char* pattern) {
      return [=, &backend, m = mask.view()] {
        ColumnPruning block{x, u, d, m, e, Pattern::parse(pattern)};
        backend.prune_columns(block);
      };
    };
    refuses("shapes 3 x 8 and 3 x 9 differ", run(w, factor, diagonal, wide, "2:4"));
    refuses("w has 8 columns, the factor 4", run(w, small, diagonal, error, "2:4"));
    refuses("diagonal is not 1 x 8", run(w, factor, small, error, "2:4"));
    refuses("d_in = 8 is not divisible by 3", run(w, factor, diagonal, error, "2:3"));
    refuses("overlaps", run(w, factor, diagonal, w, "2:4"));
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
