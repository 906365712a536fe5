#include <cmath>
#include <numeric>

#include "forwarding.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("composites");

namespace {

Dense unit_gram(Index size) {
  Dense gram = gram_of(size, 2 * size, 20);
  Dense scale(1, size);
  for (Index j = 0; j < size; ++j) scale(0, j) = 1 / std::sqrt(gram(j, j));
  for (Index i = 0; i < size; ++i)
    for (Index j = 0; j < size; ++j)
      gram(i, j) = i == j ? 1 : static_cast<float>(gram(i, j) * scale(0, i) * scale(0, j));
  return gram;
}

// Everything one admm_step reads and writes.
struct State {
  Placed w, z, t, residual, scratch;
  Mask mask;
  AdmmStep step;

  State(Backend& backend, const Dense& weight, const Dense& z_values, const std::string& pattern,
        std::vector<Index> row_counts, Index pad)
      : w(place(backend, weight, pad)),
        z(place(backend, z_values, pad)),
        t(place(backend, weight, pad)),
        residual(place(backend, Dense(weight.rows, weight.cols), pad)),
        scratch(place(backend, Dense(weight.rows, weight.cols), pad)),
        mask(backend.mask(weight.rows, weight.cols)),
        step{w, z, t, mask, residual, scratch, 0.3, Pattern::parse(pattern), std::move(row_counts)} {
    Index begin = 0;
    for (Index rows : step.row_counts) {
      backend.project(w.view.row_slice(begin, rows), step.pattern, mask.view().row_slice(begin, rows));
      begin += rows;
    }
  }
};

struct Outcome {
  Dense t, residual, mask;
};

Outcome run_steps(Backend& backend, const Dense& weight, const Dense& z, const Dense& gram, const std::string& pattern,
                  const std::vector<Index>& row_counts, Index pad, int steps) {
  State state(backend, weight, z, pattern, row_counts, pad);
  const Placed device_gram = place(backend, gram);
  const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
  factor->set_shift(state.step.rho);
  for (int i = 0; i < steps; ++i) backend.admm_step(*factor, state.step);
  for (const Placed* written : {&state.t, &state.residual, &state.scratch}) CHECK(guards_intact(backend, *written));
  return {fetch(backend, state.t), fetch(backend, state.residual), fetch_mask(backend, state.mask)};
}

// Dense inverse by Gauss-Jordan elimination: the reference must not share code with LAPACK.
Dense inverse(Dense a) {
  Dense out = identity(a.rows);
  for (Index k = 0; k < a.rows; ++k) {
    const double pivot = a(k, k);
    for (Index j = 0; j < a.cols; ++j) a(k, j) /= pivot, out(k, j) /= pivot;
    for (Index i = 0; i < a.rows; ++i) {
      const double factor = a(i, k);
      if (i == k || factor == 0) continue;
      for (Index j = 0; j < a.cols; ++j) a(i, j) -= factor * a(k, j), out(i, j) -= factor * out(k, j);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("one admm_step is s = (z h - v + rho d)(h + rho I)^-1 with d, v of the textbook form") {
  on_every_backend([](Backend& backend, double tolerance) {
    const Index rows = 5, size = 24;
    const double rho = 0.3;
    const Dense gram = unit_gram(size), w = normal(rows, size, 1), z = added(1, w, 0.1, normal(rows, size, 2));
    State state(backend, w, z, "2:4", {rows}, 3);
    const Dense old_mask = fetch_mask(backend, state.mask);
    Dense d = w, v = w;  // t = w: kept entries are d, the others the dual divided by rho
    for (std::size_t i = 0; i < w.values.size(); ++i) {
      d.values[i] = old_mask.values[i] != 0 ? w.values[i] : 0;
      v.values[i] = old_mask.values[i] != 0 ? 0 : rho * w.values[i];
    }
    const Dense right = added(1, product(z, gram), 1, added(rho, d, -1, v));
    const Dense s = product(right, inverse(added(1, gram, rho, identity(size))));
    const Placed device_gram = place(backend, gram);
    const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
    factor->set_shift(rho);
    backend.admm_step(*factor, state.step);
    CHECK(difference(fetch(backend, state.residual), added(1, w, -1, s)) <= 50 * tolerance);
    CHECK(difference(fetch(backend, state.t), added(1, s, 1 / rho, v)) <= 50 * tolerance);
  });
}

TEST_CASE("a backend's admm_step agrees with the default body") {
  on_every_backend([](Backend& backend, double tolerance) {
    Forwarding plain(backend);
    for (const char* pattern : {"2:4", "3:8", "0.5@row", "0.5@matrix", "dense"})
      for (const auto& counts : {std::vector<Index>{21}, std::vector<Index>{1, 17, 3}})
        for (Index pad : {0, 3}) {
          CAPTURE(pattern);
          const Dense gram = unit_gram(24), w = normal(21, 24, 1), z = added(1, w, 0.1, normal(21, 24, 2));
          const Outcome fused = run_steps(backend, w, z, gram, pattern, counts, pad, 4);
          const Outcome composed = run_steps(plain, w, z, gram, pattern, counts, pad, 4);
          CHECK(difference(fused.t, composed.t) <= 50 * tolerance);
          CHECK(difference(fused.residual, composed.residual) <= 50 * tolerance);
          CHECK(same_bits(fused.mask, composed.mask));
        }
  });
}

TEST_CASE("stacked matrices are projected one by one") {
  on_every_backend([](Backend& backend, double) {
    const Dense gram = unit_gram(24);
    Dense w = normal(8, 24, 3);
    for (Index j = 0; j < 24; ++j)
      for (Index i = 4; i < 8; ++i) w(i, j) *= 100;  // would take every place of one common top-k
    const Outcome outcome = run_steps(backend, w, w, gram, "0.5@matrix", {4, 4}, 0, 1);
    for (Index begin : {0, 4}) {
      const Dense part = rows_of(outcome.mask, begin, 4);
      CHECK(std::accumulate(part.values.begin(), part.values.end(), 0.0) == 48);
    }
  });
}

TEST_CASE("admm_step checks shapes, stacking and aliasing") {
  on_every_backend([](Backend& backend, double) {
    const Dense gram = unit_gram(8), w = normal(4, 8, 4);
    const Placed device_gram = place(backend, gram), other = place(backend, unit_gram(12)),
                 small = place(backend, Dense(3, 8));
    const std::unique_ptr<GramFactor> factor = backend.factor(device_gram), wrong = backend.factor(other);
    factor->set_shift(0.3);
    wrong->set_shift(0.3);
    State state(backend, w, w, "2:4", {4}, 0);
    refuses("w has 8 columns, the factor 12", [&] { backend.admm_step(*wrong, state.step); });
    AdmmStep step = state.step;
    step.row_counts = {3};
    refuses("stacked matrices have 3 rows, w has 4", [&] { backend.admm_step(*factor, step); });
    step = state.step;
    step.t = small;
    refuses("admm_step: shapes 4 x 8 and 3 x 8 differ", [&] { backend.admm_step(*factor, step); });
    step = state.step;
    step.scratch = step.residual;
    refuses("overlaps", [&] { backend.admm_step(*factor, step); });
    step = state.step;
    step.t = View(state.z);
    refuses("overlaps", [&] { backend.admm_step(*factor, step); });
    step = state.step;
    step.z = step.w;  // no low-rank part: both are only read
    backend.admm_step(*factor, step);
  });
}

TEST_CASE("masked conjugate gradients reach the least-squares solution on the support") {
  on_every_backend([](Backend& backend, double tolerance) {
    const Index rows = 7, size = 24;
    const Dense gram = added(1, unit_gram(size), 0.05, identity(size)), target = normal(rows, size, 5);
    const Placed device_target = place(backend, target), device_gram = place(backend, gram);
    Mask mask = backend.mask(rows, size);
    backend.project(device_target, Pattern::parse("2:4"), mask);
    const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
    const Placed x = place(backend, Dense(rows, size), 1), residual = place(backend, Dense(rows, size), 2),
                 direction = place(backend, target, 3), product_view = place(backend, Dense(rows, size));
    Matrix norms = backend.matrix(rows, 1);
    CgState state{x, residual, direction, product_view, mask, norms};
    backend.cg_start(*factor, state);
    double last = quadratic(target, gram);
    for (int i = 0; i < 60; ++i) {
      backend.cg_step(*factor, state);
      const double loss = quadratic(added(1, target, -1, fetch(backend, x)), gram);
      CHECK(loss <= last * (1 + 1e-6));
      last = loss;
    }
    const Dense solution = fetch(backend, x), kept = fetch_mask(backend, mask);
    const Dense gradient = product(added(1, target, -1, solution), gram);
    for (std::size_t i = 0; i < kept.values.size(); ++i) {
      if (kept.values[i] == 0) CHECK(solution.values[i] == 0);
      else CHECK(std::fabs(gradient.values[i]) <= 200 * tolerance);
    }
    for (const Placed* written : {&x, &residual, &direction}) CHECK(guards_intact(backend, *written));
  });
}

TEST_CASE("conjugate gradients that start at the solution stay there") {
  on_every_backend([](Backend& backend, double) {
    const Dense target = normal(3, 8, 6);
    const Placed device_gram = place(backend, unit_gram(8)), x = place(backend, target),
                 direction = place(backend, Dense(3, 8)), residual = place(backend, Dense(3, 8)),
                 h = place(backend, Dense(3, 8));
    const Mask mask = mask_of(backend, Dense(3, 8, 1));
    const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
    Matrix norms = backend.matrix(3, 1), wrong = backend.matrix(1, 3);
    CgState state{x, residual, direction, h, mask, norms};
    backend.cg_start(*factor, state);
    for (int i = 0; i < 3; ++i) backend.cg_step(*factor, state);
    CHECK(same_bits(fetch(backend, x), target));
    state.norms = wrong;
    refuses("norms is not 3 x 1", [&] { backend.cg_start(*factor, state); });
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
