#include "forwarding.hpp"
#include "sparlow/decorators.hpp"
#include "sparlow/solvers.hpp"
#include "support.hpp"

namespace sparlow::test {
TEST_SUITE_BEGIN("decorators");

namespace {

struct Layer {
  Placed w, gram;
  Problem problem;

  Layer(Backend& backend, Index rows, Index cols, Index rank, const std::string& pattern)
      : w(place(backend, normal(rows, cols, 1))), gram(place(backend, gram_of(cols, 2 * cols, 2))) {
    problem.targets.push_back({"layer", w, rank});
    problem.pattern = Pattern::parse(pattern);
    problem.gram = gram;
  }
};

}  // namespace

TEST_CASE("trace returns what the inner backend returns and counts every call") {
  on_every_backend([](Backend& backend, double) {
    Trace trace = make_trace(backend);
    CHECK(trace.backend->name() == backend.name());
    const Dense a = normal(17, 33, 1), b = normal(33, 5, 2);
    const Placed c = place(*trace.backend, Dense(17, 5)), expected = place(backend, Dense(17, 5));
    trace.backend->gemm(1, place(*trace.backend, a), Op::none, place(*trace.backend, b), Op::none, 0, c);
    backend.gemm(1, place(backend, a), Op::none, place(backend, b), Op::none, 0, expected);
    CHECK(same_bits(fetch(*trace.backend, c), fetch(backend, expected)));
    const OpCount& gemm = trace.counts->at("gemm");
    CHECK(gemm.calls == 1);
    CHECK(gemm.flops == 2.0 * 17 * 33 * 5);
    CHECK(gemm.bytes == 4.0 * (17 * 33 + 33 * 5 + 17 * 5));
    CHECK(gemm.seconds > 0);
    CHECK(trace.counts->at("allocate").calls == 3);
    CHECK(trace.counts->at("download").calls == 1);
  });
}

TEST_CASE("a traced solve is the plain solve, and its flops are those of its products") {
  on_every_backend([](Backend& backend, double) {
    Layer layer(backend, 24, 32, 4, "2:4");
    Trace trace = make_trace(backend);
    const OptionValues options = {{"iterations", 20}};
    const auto traced = solve(*trace.backend, "threebasil", layer.problem, options);
    const auto plain = solve(backend, "threebasil", layer.problem, options);
    CHECK(same_bits(fetch(backend, traced[0].factors.s), fetch(backend, plain[0].factors.s)));
    CHECK(same_bits(fetch(backend, traced[0].factors.u), fetch(backend, plain[0].factors.u)));
    CHECK(traced[0].report.loss == plain[0].report.loss);
    const OpCount& smoother = trace.counts->at("apply_smoother");
    CHECK(traced[0].report.iterations == 20);
    CHECK(trace.counts->at("admm_step").calls == 20);
    CHECK(smoother.calls >= 20);
    CHECK(smoother.flops >= 20.0 * 2 * 24 * 32 * 32);
    CHECK(trace.counts->at("orthonormalise").calls >= 20);
  });
}

TEST_CASE("trace counts a call that fails") {
  on_every_backend([](Backend& backend, double) {
    Trace trace = make_trace(backend);
    const Placed zero = place(*trace.backend, Dense(4, 4));
    const std::unique_ptr<GramFactor> factor = trace.backend->factor(zero);
    fails_with(ErrorCode::numerical, "not positive definite", [&] { factor->set_shift(0); });
    CHECK(trace.counts->at("set_shift").calls == 1);
  });
}

TEST_CASE("dry_run predicts the peak of the real allocations") {
  on_every_backend([](Backend& backend, double) {
    for (const Method& method : methods())
      for (const char* pattern : {"2:4", "0.5@row"}) {
        CAPTURE(method.name);
        const Index rows = 40, cols = 64, rank = method.low_rank ? 8 : 0;
        Forwarding counted(backend);
        std::size_t inputs = 0;
        {
          Layer layer(counted, rows, cols, rank, pattern);
          inputs = counted.live_bytes();
          solve(counted, method.name, layer.problem);
        }
        CHECK(counted.live_bytes() == 0);
        DryRun dry = make_dry_run();
        {
          Layer layer(*dry.backend, rows, cols, rank, pattern);
          CHECK(dry.estimate->live_bytes == inputs);
          solve(*dry.backend, method.name, layer.problem);
        }
        CHECK(dry.estimate->live_bytes == 0);
        const double factors = method.gram == Method::GramUse::none ? 0 : 4.0 * static_cast<double>(cols * cols);
        const double real = static_cast<double>(counted.peak_bytes());  // without what factors allocate inside
        const double predicted = static_cast<double>(dry.estimate->peak_bytes);
        CHECK(predicted >= real);
        CHECK(predicted <= (real + factors) * 1.05);
      }
  });
}

TEST_CASE("dry_run computes nothing: a model-sized layer costs neither memory nor time") {
  DryRun dry = make_dry_run();
  const Index rows = 8192, cols = 28672;
  Matrix w = dry.backend->matrix(rows, cols), gram = dry.backend->matrix(cols, cols);
  Problem problem;
  problem.targets.push_back({"down_proj", w, 64});
  problem.pattern = Pattern::parse("2:4");
  problem.gram = gram.view();
  solve(*dry.backend, "threebasil", problem, {{"iterations", 100}});
  const double inputs = 4.0 * (static_cast<double>(rows * cols) + static_cast<double>(cols * cols));
  CHECK(static_cast<double>(dry.estimate->peak_bytes) > inputs);
  CHECK(static_cast<double>(dry.estimate->peak_bytes) < 12 * inputs);
  CHECK(dry.estimate->flops > 2.0 * 100 * rows * cols * cols);  // one large product per iteration
  CHECK(dry.backend->name() == "dry_run");
}

TEST_CASE("dry_run refuses what a real run would refuse") {
  DryRun dry = make_dry_run();
  Matrix w = dry.backend->matrix(4, 6), gram = dry.backend->matrix(6, 6);
  Problem problem;
  problem.targets.push_back({"layer", w, 0});
  problem.pattern = Pattern::parse("2:4");
  problem.gram = gram.view();
  refuses("d_in = 6 is not divisible by 4", [&] { solve(*dry.backend, "wanda", problem); });
}

TEST_SUITE_END();
}  // namespace sparlow::test
