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

// How far a step departs from plain ADMM.
struct Variant {
  double relaxation = 1, momentum = 0, dual_scale = 1;
  bool sparse = true;
  bool moving() const { return relaxation != 1 || momentum != 0; }
};

constexpr Variant kPlain, kAccelerated{1.4, 0.2, 0.8, false}, kEverything{0.7, 0.3, 1.5, true};

// Everything one admm_step reads and writes; starts from t = w and a random low-rank part.
struct State {
  Placed w, t, residual, scratch, velocity, sparse;
  Mask mask;
  AdmmStep step;

  State(Backend& backend, const Dense& weight, const std::string& pattern, std::vector<Index> row_counts,
        Variant variant, Index pad)
      : w(place(backend, weight, pad)),
        t(place(backend, weight, pad)),
        residual(place(backend, normal(weight.rows, weight.cols, 31), pad)),
        scratch(place(backend, Dense(weight.rows, weight.cols), pad)),
        velocity(place(backend, normal(weight.rows, weight.cols, 32), pad)),
        sparse(place(backend, Dense(weight.rows, weight.cols), pad)),
        mask(backend.mask(weight.rows, weight.cols)) {
    step.w = w, step.t = t, step.mask = mask, step.residual = residual, step.scratch = scratch;
    if (variant.moving()) step.velocity = velocity;
    if (variant.sparse) step.sparse = sparse;
    step.relaxation = variant.relaxation, step.momentum = variant.momentum;
    step.dual_scale = variant.dual_scale;
    step.pattern = Pattern::parse(pattern);
    step.row_counts = std::move(row_counts);
    Index begin = 0;
    for (Index rows : step.row_counts) {
      backend.project(w.view.row_slice(begin, rows), step.pattern, mask.view().row_slice(begin, rows));
      begin += rows;
    }
  }
};

struct Outcome {
  Dense t, residual, velocity, sparse, mask;
};

Outcome run_steps(Backend& backend, const Dense& weight, const Dense& gram, const std::string& pattern,
                  const std::vector<Index>& row_counts, Variant variant, Index pad, int steps) {
  State state(backend, weight, pattern, row_counts, variant, pad);
  const Placed device_gram = place(backend, gram);
  const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
  factor->set_shift(0.3);
  for (int i = 0; i < steps; ++i) {
    backend.admm_step(*factor, state.step);
    backend.axpby(0, state.w, -1, state.residual);  // l = 0: a - z = -(w - a)
  }
  for (const Placed* x : {&state.w, &state.t, &state.residual, &state.scratch, &state.velocity, &state.sparse})
    CHECK(guards_intact(backend, *x));
  return {fetch(backend, state.t), fetch(backend, state.residual), fetch(backend, state.velocity),
          fetch(backend, state.sparse), fetch_mask(backend, state.mask)};
}

// Picks from a on the mask and from b off it.
Dense choose(const Dense& mask, const Dense& a, const Dense& b) {
  Dense out = b;
  for (std::size_t i = 0; i < out.values.size(); ++i)
    if (mask.values[i] != 0) out.values[i] = a.values[i];
  return out;
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

TEST_CASE("one admm_step is the textbook step with separate sparse copy d and dual v") {
  on_every_backend([](Backend& backend, double tolerance) {
    const Index rows = 5, size = 24;
    const double rho = 0.3;
    const Dense gram = unit_gram(size), w = normal(rows, size, 1), zero(rows, size);
    for (const Variant& variant : {kPlain, kAccelerated, kEverything}) {
      State state(backend, w, "2:4", {rows}, variant, 3);
      const Dense mask = fetch_mask(backend, state.mask), t = w, velocity = fetch(backend, state.velocity);
      const Dense d = choose(mask, t, zero), u = choose(mask, zero, t);  // u = v / rho
      const Dense a = added(1, d, -1, u), z = added(1, a, -1, fetch(backend, state.residual));
      const Dense right = added(1, product(z, gram), rho, a);  // z h - v + rho d
      const Dense s = product(right, inverse(added(1, gram, rho, identity(size))));
      const Dense change = added(variant.relaxation, added(1, added(1, s, 1, u), -1, t), variant.momentum, velocity);
      const Placed device_gram = place(backend, gram);
      const std::unique_ptr<GramFactor> factor = backend.factor(device_gram);
      factor->set_shift(rho);
      backend.admm_step(*factor, state.step);
      const Dense next = fetch_mask(backend, state.mask), moved = added(1, t, 1, change);
      const Dense scaled = choose(next, moved, added(variant.dual_scale, moved, 0, moved));
      CHECK(difference(fetch(backend, state.t), scaled) <= 50 * tolerance);
      const Dense reflected = choose(next, scaled, added(-1, scaled, 0, scaled));
      CHECK(difference(fetch(backend, state.residual), added(1, w, -1, reflected)) <= 50 * tolerance);
      if (variant.sparse) CHECK(difference(fetch(backend, state.sparse), s) <= 50 * tolerance);
      if (variant.moving()) {
        const Dense kept = choose(next, change, added(variant.dual_scale, change, 0, change));
        CHECK(difference(fetch(backend, state.velocity), kept) <= 50 * tolerance);
      }
    }
  });
}

TEST_CASE("a backend's admm_step agrees with the default body") {
  on_every_backend([](Backend& backend, double tolerance) {
    Forwarding plain(backend);
    const Dense gram = unit_gram(24), w = normal(21, 24, 1);
    for (const std::string pattern : {"2:4", "3:8", "0.5@row", "0.5@matrix", "dense"})
      for (const auto& counts : {std::vector<Index>{21}, std::vector<Index>{1, 17, 3}})
        for (const Variant& variant : {kPlain, kAccelerated, kEverything})
          for (Index pad : {0, 3}) {
            CAPTURE(pattern);
            const Outcome fused = run_steps(backend, w, gram, pattern, counts, variant, pad, 4);
            const Outcome composed = run_steps(plain, w, gram, pattern, counts, variant, pad, 4);
            CHECK(difference(fused.t, composed.t) <= 100 * tolerance);
            CHECK(difference(fused.residual, composed.residual) <= 100 * tolerance);
            CHECK(difference(fused.velocity, composed.velocity) <= 100 * tolerance);
            CHECK(difference(fused.sparse, composed.sparse) <= 100 * tolerance);
            CHECK(same_bits(fused.mask, composed.mask));
          }
  });
}

TEST_CASE("a negated residual makes the same step") {
  on_every_backend([](Backend& backend, double) {
    const Placed gram = place(backend, unit_gram(24));
    const std::unique_ptr<GramFactor> factor = backend.factor(gram);
    factor->set_shift(0.3);
    for (const std::string pattern : {"2:4", "0.5@row"}) {
      State plain(backend, normal(9, 24, 1), pattern, {9}, kEverything, 0),
          turned(backend, normal(9, 24, 1), pattern, {9}, kEverything, 0);
      backend.axpby(0, turned.residual, -1, turned.residual);
      turned.step.negated = true;
      for (State* state : {&plain, &turned}) backend.admm_step(*factor, state->step);
      for (Placed State::* part : {&State::t, &State::residual, &State::velocity, &State::sparse})
        CHECK(difference(fetch(backend, plain.*part), fetch(backend, turned.*part)) == 0);
    }
  });
}

TEST_CASE("admm_reflect scales the dual and renews w - a") {
  on_every_backend([](Backend& backend, double tolerance) {
    for (const Variant& variant : {kPlain, kAccelerated})
      for (Index pad : {0, 3}) {
        State state(backend, normal(7, 24, 1), "3:8", {7}, variant, pad);
        const Dense w = normal(7, 24, 1), mask = fetch_mask(backend, state.mask),
                    velocity = fetch(backend, state.velocity);
        state.step.dual_scale = 0.7;
        backend.admm_reflect(state.step);
        const Dense t = choose(mask, w, added(0.7, w, 0, w)), a = choose(mask, w, added(-0.7, w, 0, w));
        CHECK(difference(fetch(backend, state.t), t) <= 10 * tolerance);
        CHECK(difference(fetch(backend, state.residual), added(1, w, -1, a)) <= 10 * tolerance);
        const Dense moved = variant.moving() ? choose(mask, velocity, added(0.7, velocity, 0, velocity)) : velocity;
        CHECK(difference(fetch(backend, state.velocity), moved) <= 10 * tolerance);
        CHECK(guards_intact(backend, state.residual));
      }
  });
}

TEST_CASE("signed_gather and signed_spread move a state between two terms") {
  on_every_backend([](Backend& backend, double tolerance) {
    Forwarding composed(backend);
    for (Backend* tested : {&backend, static_cast<Backend*>(&composed)})
      for (const auto& [rows, cols] : {std::pair<Index, Index>{1, 1}, {7, 24}, {17, 131}})
        for (Index pad : {0, 3}) {
          Dense keep = normal(rows, cols, 41), old_signs = normal(rows, cols, 42);
          for (Dense* x : {&keep, &old_signs})
            for (double& value : x->values) value = value > 0;
          const Dense t = normal(rows, cols, 43), plain = normal(rows, cols, 44), fitted = normal(rows, cols, 45),
                      target = normal(rows, cols, 46);
          const Placed w = place(backend, target, pad), state = place(backend, t, pad),
                       magnitude = place(backend, Dense(rows, cols), pad), goal = place(backend, target, pad);
          Placed factor = place(backend, plain, pad);
          const Mask mask = mask_of(backend, keep);
          Mask signs = mask_of(backend, old_signs);
          SignedTurn turn{goal, w, state, mask, signs, factor, magnitude};
          tested->signed_gather(turn);
          const Dense sum = added(1, t, 1, choose(old_signs, plain, added(-1, plain, 0, plain)));
          Dense found = sum, wanted = sum;
          for (double& value : found.values) value = value >= 0;
          for (double& value : wanted.values) value = std::abs(value);
          CHECK(difference(fetch(backend, state), sum) <= 4 * tolerance);
          CHECK(same_bits(fetch_mask(backend, signs), found));
          CHECK(difference(fetch(backend, magnitude), choose(keep, plain, wanted)) <= 4 * tolerance);
          backend.copy(place(backend, fitted), factor);
          tested->signed_spread(turn);
          const Dense c = choose(found, fitted, added(-1, fitted, 0, fitted));
          CHECK(difference(fetch(backend, state), added(1, sum, -1, c)) <= 8 * tolerance);
          CHECK(difference(fetch(backend, w), added(1, target, -1, c)) <= 4 * tolerance);
          for (const Placed* x : {&w, &state, &magnitude, &goal, static_cast<const Placed*>(&factor)})
            CHECK(guards_intact(backend, *x));
        }
    Matrix x = backend.matrix(2, 3), y = backend.matrix(2, 3), z = backend.matrix(2, 3), p = backend.matrix(2, 3);
    Mask mask = backend.mask(2, 3), signs = backend.mask(3, 2);
    SignedTurn wrong{x, y, z, mask, signs, p, x};
    refuses("signed: shapes 2 x 3 and 3 x 2 differ", [&] { backend.signed_gather(wrong); });
    Mask right = backend.mask(2, 3);
    SignedTurn aliased{x, y, z, mask, right, p, y};
    refuses("overlaps an input", [&] { backend.signed_spread(aliased); });
  });
}

TEST_CASE("stacked matrices are projected one by one") {
  on_every_backend([](Backend& backend, double) {
    Dense w = normal(8, 24, 3);
    for (Index j = 0; j < 24; ++j)
      for (Index i = 4; i < 8; ++i) w(i, j) *= 100;  // would take every place of one common top-k
    const Outcome outcome = run_steps(backend, w, unit_gram(24), "0.5@matrix", {4, 4}, kPlain, 0, 1);
    for (Index begin : {0, 4}) {
      const Dense part = rows_of(outcome.mask, begin, 4);
      CHECK(std::accumulate(part.values.begin(), part.values.end(), 0.0) == 48);
    }
  });
}

TEST_CASE("admm_step checks shapes, stacking, the velocity and aliasing") {
  on_every_backend([](Backend& backend, double) {
    const Placed device_gram = place(backend, unit_gram(8)), other = place(backend, unit_gram(12));
    const Placed small = place(backend, Dense(3, 8));
    const std::unique_ptr<GramFactor> factor = backend.factor(device_gram), wrong = backend.factor(other);
    factor->set_shift(0.3);
    wrong->set_shift(0.3);
    State state(backend, normal(4, 8, 4), "2:4", {4}, kEverything, 0);
    const auto changed = [&](auto&& change) {
      return [&backend, &factor, step = state.step, change]() mutable {
        change(step);
        backend.admm_step(*factor, step);
      };
    };
    refuses("w has 8 columns, the factor 12", [&] { backend.admm_step(*wrong, state.step); });
    refuses("stacked matrices have 3 rows, w has 4", changed([](AdmmStep& step) { step.row_counts = {3}; }));
    refuses("shapes 4 x 8 and 3 x 8 differ", changed([&](AdmmStep& step) { step.t = small; }));
    refuses("shapes 4 x 8 and 3 x 8 differ", changed([&](AdmmStep& step) { step.velocity = small; }));
    refuses("need a velocity", changed([](AdmmStep& step) { step.velocity = {}; }));
    refuses("overlaps", changed([](AdmmStep& step) { step.scratch = step.residual; }));
    refuses("overlaps", changed([](AdmmStep& step) { step.sparse = step.t; }));
    refuses("overlaps", changed([](AdmmStep& step) { step.w = step.t; }));
    backend.admm_step(*factor, state.step);
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
