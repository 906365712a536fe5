// Whole solvers through sparlow::solve.
#include <algorithm>
#include <cmath>

#include "sparlow/solvers.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("solve");

namespace {

Problem problem_for(ConstView w, ConstView gram, Index rank, const char* pattern) {
  Problem problem;
  problem.targets.push_back({"layer", w, rank});
  problem.pattern = Pattern::parse(pattern);
  problem.gram = gram;
  return problem;
}

Dense dense_of(Backend& backend, const Decomposition& factors) {
  Dense sum = added(1, fetch(backend, factors.s), 1, product(fetch(backend, factors.u), fetch(backend, factors.v)));
  if (factors.signs.rows() == 0) return sum;
  const Dense signs = fetch_mask(backend, factors.signs);
  const Dense plain = product(fetch(backend, factors.sign_u), fetch(backend, factors.sign_v));
  for (std::size_t i = 0; i < sum.values.size(); ++i)
    sum.values[i] += signs.values[i] != 0 ? plain.values[i] : -plain.values[i];
  return sum;
}

// A matrix with exactly the given 2:4 support of a random one, plus a low-rank part.
Dense planted(Index rows, Index cols, Index rank) {
  Dense s = normal(rows, cols, 7);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) s(i, j) = (j + i) % 4 < 2 ? s(i, j) + (s(i, j) < 0 ? -1 : 1) : 0;
  Dense w = added(1, s, 0.1, product(normal(rows, rank, 8), normal(rank, cols, 9)));
  for (double& value : w.values) value = static_cast<float>(value);
  return w;
}

}  // namespace

TEST_CASE("threebasil recovers a planted sparse + low-rank matrix") {
  on_every_backend([](Backend& backend, double) {
    const Dense w = planted(48, 64, 3), gram = gram_of(64, 256, 10);
    const Placed device_w = place(backend, w), device_gram = place(backend, gram);
    const auto best = solve(backend, "threebasil", problem_for(device_w, device_gram, 3, "2:4"), {{"iterations", 400}});
    const auto simple = solve(backend, "wanda", problem_for(device_w, device_gram, 0, "2:4"));
    CHECK(best[0].report.relative_loss < 1e-3);
    CHECK(best[0].report.loss < 0.05 * simple[0].report.loss);
  });
}

TEST_CASE("robust_pca recovers a planted sum, and says so") {
  on_every_backend([](Backend& backend, double) {
    for (const auto& [rows, cols] : {std::pair<Index, Index>{40, 60}, {60, 40}}) {
      const Dense low = product(normal(rows, 2, 3), normal(2, cols, 4));
      Dense sparse = normal(rows, cols, 5);
      for (double& value : sparse.values) value = std::abs(value) > 2 ? 10 * value : 0;
      const Placed w = place(backend, added(1, low, 1, sparse), 3);
      const PrincipalParts parts = robust_pca(backend, w, 500, 1e-5, [] {});
      CHECK(parts.converged);
      CHECK(parts.rank == 2);
      CHECK(difference(fetch(backend, parts.l), low) < 0.02);
      CHECK(difference(fetch(backend, parts.s), sparse) < 0.02);
      Matrix u = backend.matrix(rows, 2), v = backend.matrix(2, cols);
      best_factors(backend, parts.l, u, v);
      CHECK(difference(product(fetch(backend, u), fetch(backend, v)), low) < 0.02);
      CHECK_FALSE(robust_pca(backend, w, 2, 1e-5, [] {}).converged);
    }
    const Matrix zero = backend.matrix(4, 6);
    CHECK(robust_pca(backend, zero, 10, 0, [] {}).converged);
  });
}

TEST_CASE("every method: exact pattern, reported loss, factors of the asked shape") {
  on_every_backend([](Backend& backend, double) {
    const Dense w = normal(24, 32, 1), gram = gram_of(32, 80, 2);
    const Placed device_w = place(backend, w, 3), device_gram = place(backend, gram, 2);
    for (const Method& method : methods())
      for (const char* pattern : {"2:4", "0.5@row", "0.25@matrix"}) {
        CAPTURE(method.name);
        const Index rank = method.low_rank ? 5 : 0;
        const auto solutions = solve(backend, method.name, problem_for(device_w, device_gram, rank, pattern));
        const Report& report = solutions[0].report;
        const Dense s = fetch(backend, solutions[0].factors.s);
        const auto kept = 768 - std::count(s.values.begin(), s.values.end(), 0.0);
        CHECK(kept == Pattern::parse(pattern).kept(24, 32));
        CHECK(report.density == doctest::Approx(static_cast<double>(kept) / 768));
        const double loss = quadratic(added(1, w, -1, dense_of(backend, solutions[0].factors)), gram);
        CHECK(report.loss == doctest::Approx(loss).epsilon(1e-4));
        CHECK(report.relative_loss == doctest::Approx(loss / quadratic(w, gram)).epsilon(1e-4));
        CHECK(solutions[0].factors.u.cols() == rank);
        CHECK(solutions[0].factors.v.rows() == rank);
        CHECK(report.seconds > 0);
        CHECK_FALSE(report.status.empty());
      }
  });
}

TEST_CASE("the same seed gives the same bits, another seed another low-rank start") {
  on_every_backend([](Backend& backend, double) {
    const Placed w = place(backend, normal(24, 32, 1)), gram = place(backend, gram_of(32, 80, 2));
    Problem problem = problem_for(w, gram, 4, "2:4");
    const OptionValues few = {{"iterations", 1}, {"refit_steps", 1}};
    const Dense first = fetch(backend, solve(backend, "threebasil", problem, few)[0].factors.u);
    CHECK(same_bits(first, fetch(backend, solve(backend, "threebasil", problem, few)[0].factors.u)));
    problem.seed = 1;
    CHECK_FALSE(same_bits(first, fetch(backend, solve(backend, "threebasil", problem, few)[0].factors.u)));
  });
}

TEST_CASE("should_stop cancels a long solve") {
  on_every_backend([](Backend& backend, double) {
    const Placed w = place(backend, normal(24, 32, 1)), gram = place(backend, gram_of(32, 80, 2));
    Problem problem = problem_for(w, gram, 4, "2:4");
    int polls = 0;
    problem.should_stop = [&] { return ++polls == 3; };
    fails_with(ErrorCode::cancelled, "stopped", [&] { solve(backend, "threebasil", problem); });
    CHECK(polls == 3);
  });
}

TEST_CASE("bad problems are refused before any work, by name") {
  on_every_backend([](Backend& backend, double) {
    Dense bad = normal(8, 16, 1);
    bad(7, 15) = std::nan("");
    const Placed w = place(backend, normal(8, 16, 1)), gram = place(backend, gram_of(16, 40, 2)),
                 nan = place(backend, bad);
    const Placed narrow = place(backend, gram_of(12, 40, 2));
    const auto run = [&](ConstView weight, ConstView g, Index rank, const char* pattern,
                         const char* method = "threebasil", const OptionValues& options = {}) {
      return [=, &backend] { solve(backend, method, problem_for(weight, g, rank, pattern), options); };
    };
    fails_with(ErrorCode::numerical, "layer: the weight contains NaN or Inf", run(nan, gram, 0, "2:4"));
    refuses("layer: rank 9 is outside [0, 8] for a 8 x 16", run(w, gram, 9, "2:4"));
    refuses("layer: rank -1 is outside", run(w, gram, -1, "2:4"));
    refuses("magnitude has no low-rank part", run(w, gram, 2, "2:4", "magnitude"));
    refuses("layer: d_in = 16 is not divisible by 12", run(w, gram, 0, "5:12"));
    refuses("layer: d_in = 16 but the Gram matrix is 12 x 12", run(w, narrow, 0, "2:4"));
    refuses("wanda needs the Gram matrix", run(w, {}, 0, "2:4", "wanda"));
    refuses("unknown method 'wonda'; did you mean 'wanda'?", run(w, gram, 0, "2:4", "wonda"));
    refuses("threebasil has no option 'iteration'; did you mean 'iterations'?",
            run(w, gram, 0, "2:4", "threebasil", {{"iteration", 5}}));
    refuses("magnitude has no option 'rho'; it takes none", run(w, gram, 0, "2:4", "magnitude", {{"rho", 1}}));
    refuses("rho_start = -1 is outside", run(w, gram, 0, "2:4", "threebasil", {{"rho_start", -1}}));
    refuses("rho_start = nan is outside", run(w, gram, 0, "2:4", "threebasil", {{"rho_start", std::nan("")}}));
    refuses("iterations = 2.5 is not a whole number", run(w, gram, 0, "2:4", "threebasil", {{"iterations", 2.5}}));
    refuses("no weights", [&] { solve(backend, "magnitude", Problem{}); });
  });
}

TEST_CASE("choices have names, other options have none") {
  const Method& eora = find_method("eora");
  CHECK(option_value(eora, "pruner", "magnitude") == 0);
  CHECK(option_value(eora, "pruner", "alps") == 3);
  refuses("eora: option pruner = 'alp' is not one of magnitude, wanda, sparsegpt, alps",
          [&] { option_value(eora, "pruner", "alp"); });
  refuses("eora: option low_rank_steps = 'alps' is not a number",
          [&] { option_value(eora, "low_rank_steps", "alps"); });
  refuses("did you mean 'pruner'?", [&] { option_value(eora, "pruners", "alps"); });
}

TEST_CASE("magnitude needs no Gram matrix and then reports no loss") {
  on_every_backend([](Backend& backend, double) {
    const Placed w = place(backend, normal(8, 16, 1));
    const auto solutions = solve(backend, "magnitude", problem_for(w, {}, 0, "2:4"));
    CHECK(std::isnan(solutions[0].report.loss));
    CHECK(std::isnan(solutions[0].report.relative_loss));
    CHECK(solutions[0].report.density == 0.5);
  });
}

TEST_CASE("relative_loss is 0 for the weight itself, also without energy, and 1 for nothing") {
  on_every_backend([](Backend& backend, double) {
    const Placed w = place(backend, normal(8, 16, 1)), gram = place(backend, gram_of(16, 40, 2)),
                 zero = place(backend, Dense(8, 16));
    CHECK(relative_loss(backend, w, w, gram) == 0);
    CHECK(relative_loss(backend, zero, zero, gram) == 0);
    CHECK(relative_loss(backend, w, zero, gram) == doctest::Approx(1));
    refuses("shapes", [&] { relative_loss(backend, w, gram, gram); });
  });
}

TEST_SUITE_END();
}  // namespace sparlow::test
