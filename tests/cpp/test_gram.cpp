// ScaledGram: damping, dead columns, raising the damping.
#include <cmath>

#include "sparlow/problem.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("gram");

namespace {

constexpr Damping kNone{0, 0};

}  // namespace

TEST_CASE("scaled has a unit diagonal and the scale of the damped Gram matrix") {
  on_every_backend([](Backend& backend, double tolerance) {
    const Index size = 33;
    const Dense gram = gram_of(size, 80, 1);
    const Placed device = place(backend, gram, 2);
    ScaledGram scaled(backend, device, {0.01, 0.02});
    double mean = 0;
    for (Index j = 0; j < size; ++j) mean += gram(j, j) / static_cast<double>(size);
    Dense damped = gram, expected(size, size);
    for (Index j = 0; j < size; ++j) damped(j, j) = gram(j, j) * 1.01 + 0.02 * mean;
    for (Index i = 0; i < size; ++i)
      for (Index j = 0; j < size; ++j) expected(i, j) = damped(i, j) / std::sqrt(damped(i, i) * damped(j, j));
    CHECK(difference(fetch(backend, scaled.scaled()), expected) <= 2 * tolerance);
    const Dense scale = fetch(backend, scaled.scale()), norms = fetch(backend, scaled.input_norms());
    for (Index j = 0; j < size; ++j) {
      CHECK(scale(0, j) == doctest::Approx(std::sqrt(damped(j, j))).epsilon(1e-6));
      CHECK(norms(0, j) == doctest::Approx(std::sqrt(gram(j, j))).epsilon(1e-6));
    }
    CHECK(scaled.dead_columns() == 0);
    CHECK(scaled.damping_used() == doctest::Approx(0.03));
  });
}

TEST_CASE("leverage scaling weighs an input by its variance given the others") {
  on_every_backend([](Backend& backend, double) {
    const Index size = 17;
    const double ridge = 0.1;
    const Placed device = place(backend, gram_of(size, 40, 3));
    ScaledGram plain(backend, device, kNone), leverage(backend, device, kNone);
    leverage.scale_by_leverage();
    const Placed unit = place(backend, identity(size)), smoother = place(backend, Dense(size, size));
    plain.factor().set_shift(ridge);
    plain.factor().apply_smoother(unit, smoother);
    const Dense m = fetch(backend, smoother), before = fetch(backend, plain.scale()),
                after = fetch(backend, leverage.scale());
    double mean = 0;
    std::vector<double> variance;  // 1 / p_jj - ridge, m = I - ridge p
    for (Index j = 0; j < size; ++j) variance.push_back(ridge / (1 - m(j, j)) - ridge), mean += variance.back() / size;
    for (Index j = 0; j < size; ++j)
      CHECK(after(0, j) / before(0, j) ==
            doctest::Approx(std::sqrt(variance[static_cast<std::size_t>(j)] / mean)).epsilon(1e-3));
    const Dense h = fetch(backend, leverage.scaled()), back = fetch(backend, device);
    for (Index i = 0; i < size; ++i)
      for (Index j = 0; j < size; ++j)
        CHECK(h(i, j) * after(0, i) * after(0, j) == doctest::Approx(back(i, j)).epsilon(1e-4).scale(largest(back)));
  });
}

TEST_CASE("dead inputs have scale 0 and are left out of the mean") {
  on_every_backend([](Backend& backend, double) {
    Dense gram(5, 5);
    for (Index j : {0, 2, 4}) gram(j, j) = 4;
    ScaledGram scaled(backend, place(backend, gram), {0, 0.5});
    CHECK(scaled.dead_columns() == 2);
    const Dense scale = fetch(backend, scaled.scale());
    CHECK(scale(0, 1) == 0);
    CHECK(scale(0, 3) == 0);
    CHECK(scale(0, 0) == doctest::Approx(std::sqrt(6.0)));
    CHECK(same_bits(fetch(backend, scaled.scaled()), identity(5)));
  });
}

TEST_CASE("a singular Gram matrix raises the damping until it factors") {
  on_every_backend([](Backend& backend, double) {
    const Placed ones = place(backend, Dense(9, 9, 2));  // rank 1
    ScaledGram undamped(backend, ones, kNone);
    undamped.set_shift(0);
    CHECK(undamped.damping_used() > 0);
    CHECK(undamped.damping_used() <= 0.1);
    ScaledGram fine(backend, ones, {0.005, 0.005});
    fine.set_shift(0.1);
    CHECK(fine.damping_used() == doctest::Approx(0.01));
  });
}

TEST_CASE("an indefinite matrix is not a Gram matrix") {
  on_every_backend([](Backend& backend, double) {
    Dense bad = identity(6);
    bad(0, 1) = bad(1, 0) = 5;
    const Placed device = place(backend, bad);
    ScaledGram scaled(backend, device, {0.005, 0.005});
    fails_with(ErrorCode::numerical, "not x^T x", [&] { scaled.set_shift(0.1); });
  });
}

TEST_CASE("impossible Gram matrices and dampings are refused") {
  on_every_backend([](Backend& backend, double) {
    Dense negative = identity(3), nan = identity(3);
    negative(1, 1) = -2;
    nan(0, 2) = std::nan("");
    const Placed good = place(backend, identity(3)), zero = place(backend, Dense(3, 3));
    const Placed flat = place(backend, Dense(2, 3));
    const auto make = [&](ConstView gram, Damping damping = {}) { ScaledGram(backend, gram, damping); };
    fails_with(ErrorCode::numerical, "negative diagonal entry (-2 at 1)", [&] { make(place(backend, negative)); });
    fails_with(ErrorCode::numerical, "contains NaN or Inf", [&] { make(place(backend, nan)); });
    refuses("Gram matrix is zero", [&] { make(zero); });
    refuses("2 x 3, not square", [&] { make(flat); });
    refuses("must be at least 0", [&] { make(good, {-0.1, 0}); });
    refuses("must be at least 0", [&] { make(good, {0.6, 0.6}); });
    refuses("must be at least 0", [&] { make(good, {std::nan(""), 0}); });
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
