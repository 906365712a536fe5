// Products of real size, where a device backend leaves plain f32 arithmetic: operands split in halves, f16 or TF32
// operands, the smoother updated from shift to shift.
#include <cmath>

#include "forwarding.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("reduced");

namespace {

Dense unit_gram(Index size) {
  Dense gram = gram_of(size, 2 * size, 30);
  Dense scale(1, size);
  for (Index j = 0; j < size; ++j) scale(0, j) = 1 / std::sqrt(gram(j, j));
  for (Index i = 0; i < size; ++i)
    for (Index j = 0; j < size; ++j)
      gram(i, j) = i == j ? 1 : static_cast<float>(gram(i, j) * scale(0, i) * scale(0, j));
  return gram;
}

double norm(const Dense& x) {
  double sum = 0;
  for (double value : x.values) sum += value * value;
  return std::sqrt(sum);
}

double relative(const Dense& x, const Dense& reference) { return norm(added(1, x, -1, reference)) / norm(reference); }

// Entries of very different size, as outlier channels make them.
Dense uneven(Index rows, Index cols, unsigned seed) {
  Dense x = normal(rows, cols, seed);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) x(i, j) = static_cast<float>(x(i, j) * std::pow(10.0, (i + j) % 7 - 3));
  return x;
}

}  // namespace

TEST_CASE("large products keep f32 accuracy in every orientation") {
  on_every_backend([](Backend& backend, double) {
    const Index rows = 1280, inner = 1288, cols = 1344, checked = 3;
    const Dense a = uneven(rows, inner, 1), b = uneven(inner, cols, 2), c = normal(rows, cols, 3);
    const Dense expected = added(-0.5, product(rows_of(a, 0, checked), b), 2, rows_of(c, 0, checked));
    for (Op op_a : {Op::none, Op::transpose})
      for (Op op_b : {Op::none, Op::transpose}) {
        const Placed device_a = place(backend, op_a == Op::none ? a : transposed(a), 4),
                     device_b = place(backend, op_b == Op::none ? b : transposed(b)), device_c = place(backend, c, 4);
        backend.gemm(-0.5, device_a, op_a, device_b, op_b, 2, device_c);
        CHECK(relative(rows_of(fetch(backend, device_c), 0, checked), expected) <= 2e-6);
        CHECK(guards_intact(backend, device_c));
      }
  });
}

TEST_CASE("reduced products stay within eleven bits of precision") {
  on_every_backend([](Backend& backend, double) {
    for (Precision precision : {Precision::f32, Precision::tf32, Precision::f16}) {
      backend.set_precision(precision);
      const double bound = precision == Precision::f32 ? 2e-6 : 2e-3;
      const Dense a = normal(320, 512, 4), b = normal(512, 128, 5);
      const Placed c = place(backend, Dense(320, 128));
      backend.gemm(1, place(backend, a), Op::none, place(backend, b), Op::none, 0, c, Accuracy::reduced);
      CHECK(relative(fetch(backend, c), product(a, b)) <= bound);
    }
  });
}

TEST_CASE("apply_smoother follows a ramp of shifts: y (h + shift I) = x h") {
  on_every_backend([](Backend& backend, double) {
    for (Precision precision : {Precision::f32, Precision::f16}) {
      backend.set_precision(precision);
      const double bound = precision == Precision::f32 ? 2e-4 : 1e-2;
      const Dense gram = unit_gram(320), x = uneven(300, 320, 6);
      const Placed device_gram = place(backend, gram), many = place(backend, x), few = place(backend, rows_of(x, 0, 5));
      const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
      double shift = 0.06;
      for (int step = 0; step < 12; ++step, shift *= 1.21) {
        factor->set_shift(shift);
        CHECK(factor->shift() == shift);
        for (const Placed* input : {&many, &few}) {
          const Placed y = place(backend, Dense(input->view.rows, 320), 3);
          factor->apply_smoother(*input, y);
          const Dense smoothed = fetch(backend, y), expected = product(fetch(backend, *input), gram);
          CHECK(relative(added(1, product(smoothed, gram), shift, smoothed), expected) <= bound);
          CHECK(guards_intact(backend, y));
        }
      }
      factor->set_shift(0.06);  // back down: a fresh factorisation
      const Placed y = place(backend, Dense(5, 320));
      factor->apply_smoother(few, y);
      const Dense smoothed = fetch(backend, y), expected = product(fetch(backend, few), gram);
      CHECK(relative(added(1, product(smoothed, gram), 0.06, smoothed), expected) <= bound);
    }
  });
}

TEST_CASE("a step of real size agrees with the default body") {
  on_every_backend([](Backend& backend, double) {
    Forwarding plain(backend);
    const Index rows = 300, size = 320;
    const Placed gram = place(backend, unit_gram(size)), w = place(backend, normal(rows, size, 7));
    const std::unique_ptr<GramFactor> factor = backend.factor(gram);
    factor->set_shift(0.3);
    std::vector<Dense> states, residuals;
    for (Backend* runner : {&backend, static_cast<Backend*>(&plain)}) {
      const Placed t = place(backend, normal(rows, size, 8)), residual = place(backend, normal(rows, size, 9)),
                   scratch = place(backend, Dense(rows, size)), velocity = place(backend, Dense(rows, size));
      Mask mask = backend.mask(rows, size);
      backend.project(t, Pattern::parse("2:4"), mask);
      AdmmStep step;
      step.w = w, step.t = t, step.mask = mask, step.residual = residual, step.scratch = scratch;
      step.velocity = velocity, step.relaxation = 1.4, step.momentum = 0.2, step.dual_scale = 0.8;
      step.pattern = Pattern::parse("2:4"), step.row_counts = {rows};
      runner->admm_step(*factor, step);
      states.push_back(fetch(backend, t));
      residuals.push_back(fetch(backend, residual));
    }
    CHECK(relative(states[0], states[1]) <= 1e-5);
    CHECK(relative(residuals[0], residuals[1]) <= 1e-5);
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
