// Conjugate gradients on a support: cg_start, cg_move, cg_turn.
#include <cmath>

#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("gradients");

namespace {

// min tr((target - s) h (target - s)^T) over s on a 2:4 support, from s = 0, without a low-rank part: then the caller's
// `full` is the gradient itself.
struct Descent {
  Dense target, gram;
  Backend& backend;
  Placed h, gap, gradient, residual, direction, product;
  Mask mask;
  Matrix norms;
  CgState state;

  Descent(Backend& backend, const Dense& target, const Dense& gram, Index pad)
      : target(target),
        gram(gram),
        backend(backend),
        h(place(backend, gram)),
        gap(place(backend, target, pad)),
        gradient(place(backend, sparlow::test::product(target, gram), pad)),
        residual(place(backend, Dense(target.rows, target.cols), pad)),
        direction(place(backend, Dense(target.rows, target.cols), pad)),
        product(place(backend, Dense(target.rows, target.cols), pad)),
        mask(backend.mask(target.rows, target.cols)),
        norms(backend.matrix(target.rows, 1)),
        state{gap, gradient, gradient, residual, direction, product, mask, norms} {
    backend.project(gap, Pattern::parse("2:4"), mask);
    backend.cg_start(state);
  }

  void step() {
    backend.gemm(1, direction, Op::none, h, Op::none, 0, product);
    backend.cg_move(state);
    backend.cg_turn(state);
  }

  double loss() const { return quadratic(fetch(backend, gap), gram); }
};

Dense well_conditioned(Index size) {
  Dense gram = gram_of(size, 4 * size, 40);
  Dense out(size, size);
  for (Index i = 0; i < size; ++i)
    for (Index j = 0; j < size; ++j)
      out(i, j) = static_cast<float>(gram(i, j) / std::sqrt(gram(i, i) * gram(j, j)) + (i == j ? 0.1 : 0.0));
  return out;
}

}  // namespace

TEST_CASE("the loss falls at every step until the gradient on the support is zero") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (Index pad : {0, 3}) {
      Descent descent(backend, normal(7, 24, 5), well_conditioned(24), pad);
      double last = descent.loss();
      for (int i = 0; i < 60; ++i) {
        descent.step();
        CHECK(descent.loss() <= last * (1 + 1e-6));
        last = descent.loss();
      }
      const Dense gap = fetch(backend, descent.gap), kept = fetch_mask(backend, descent.mask);
      const Dense gradient = product(gap, descent.gram);
      for (std::size_t i = 0; i < kept.values.size(); ++i) {
        if (kept.values[i] == 0) CHECK(gap.values[i] == descent.target.values[i]);  // s stays 0 off the support
        else CHECK(std::fabs(gradient.values[i]) <= 100 * tolerance);
      }
      CHECK(difference(fetch(backend, descent.gradient), gradient) <= 100 * tolerance);
      for (const Placed* x : {&descent.gap, &descent.gradient, &descent.residual, &descent.direction})
        CHECK(guards_intact(backend, *x));
    }
  });
}

TEST_CASE("rows are independent: one alone descends as it does among others") {
  on_every_backend([](Backend& backend, double tolerance) {
    Dense target = normal(5, 24, 6);
    for (Index j = 0; j < 24; ++j) target(0, j) *= 1000;
    const Dense gram = well_conditioned(24);
    Descent all(backend, target, gram, 0), one(backend, rows_of(target, 3, 1), gram, 0);
    for (int i = 0; i < 5; ++i) all.step(), one.step();
    CHECK(difference(rows_of(fetch(backend, all.gap), 3, 1), fetch(backend, one.gap)) <= 50 * tolerance);
  });
}

TEST_CASE("a start at the solution stays there, and an all-zero row does not divide by zero") {
  on_every_backend([](Backend& backend, double) {
    Descent descent(backend, Dense(3, 8), well_conditioned(8), 0);
    for (int i = 0; i < 3; ++i) descent.step();
    CHECK(same_bits(fetch(backend, descent.gap), Dense(3, 8)));
    CHECK(backend.fetch_all_finite(descent.direction));
  });
}

TEST_CASE("shapes are checked by all three") {
  on_every_backend([](Backend& backend, double) {
    Descent descent(backend, normal(3, 8, 7), well_conditioned(8), 0);
    const Placed small = place(backend, Dense(2, 8));
    Matrix wrong = backend.matrix(1, 3);
    CgState norms = descent.state, shape = descent.state;
    norms.norms = wrong;
    shape.direction = small;
    refuses("norms is not 3 x 1", [&] { backend.cg_start(norms); });
    refuses("norms is not 3 x 1", [&] { backend.cg_turn(norms); });
    refuses("shapes 3 x 8 and 2 x 8 differ", [&] { backend.cg_move(shape); });
    refuses("shapes 3 x 8 and 2 x 8 differ", [&] { backend.cg_start(shape); });
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
