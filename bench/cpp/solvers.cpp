// Whole decompositions of a synthetic layer, method by method: seconds and relative loss, against one plain product
// d_out x d_in x d_in, which is what an iteration of most methods cannot do without.
#include "sparlow/solvers.hpp"

#include <algorithm>
#include <chrono>

#include "matrices.hpp"
#include "session.hpp"
#include "sparlow/decorators.hpp"
#include "sparlow/error.hpp"

namespace sparlow::bench {
namespace {

struct Job {
  LayerSize size;
  std::string method, pattern;
  Index rank;
};

std::vector<std::string> wanted_methods(const Options& options) {
  if (options.text("methods") != "all") return options.list("methods");
  std::vector<std::string> names;
  for (const Method& method : methods()) names.emplace_back(method.name);
  return names;
}

Problem problem_of(const Job& job, ConstView w, ConstView gram) {
  const Method& method = find_method(job.method);
  Problem problem;
  problem.targets.push_back({job.size.name, w, method.low_rank ? job.rank : 0});
  problem.pattern = Pattern::parse(job.pattern);
  problem.gram = gram;  // methods without data only have their loss measured with it
  return problem;
}

// One solve that does not count: kernels load, memory pools fill, and floating-point operations are counted.
double warm_up(Backend& backend, const Job& job, const Problem& problem) {
  const Trace trace = make_trace(backend);
  solve(*trace.backend, job.method, problem);
  double flops = 0;
  for (const auto& [name, count] : *trace.counts) flops += count.flops;
  return flops;
}

Spread plain_product(Session& session, Backend& backend, ConstView w, ConstView gram) {
  Matrix y = backend.matrix(w.rows, w.cols);
  const Way way{
      [&](int) { session.device().dense(w.data, gram.data, y.view().data, w.rows, w.cols, w.cols, DType::f32); }, 1,
      true, true};
  return session.device().measure({way}, session.smoke() ? 3 : 7)[0];
}

void measure(Session& session, Backend& backend, const Job& job, ConstView w, ConstView gram, const Spread& product) {
  using Clock = std::chrono::steady_clock;
  const Problem problem = problem_of(job, w, gram);
  std::vector<double> seconds;
  Report report;
  const double flops = warm_up(backend, job, problem);
  for (int repeat = 0; repeat < (session.smoke() ? 1 : session.repeats()); ++repeat) {
    backend.wait();
    const Clock::time_point begin = Clock::now();
    const std::vector<Solution> solutions = solve(backend, job.method, problem);
    backend.wait();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    report = solutions.at(0).report;
  }
  Row row;
  row.label = std::to_string(job.size.d_out) + "x" + std::to_string(job.size.d_in) + " " + job.method;
  row.where.add("device", session.device().name()).add("layer", job.size.name).add("d_out", job.size.d_out);
  row.where.add("d_in", job.size.d_in)
      .add("method", job.method)
      .add("pattern", job.pattern)
      .add("rank", problem.targets[0].rank);
  row.seconds = spread(seconds);
  row.baseline = Baseline{"one " + session.device().dense_name(DType::f32) + " product", product};
  row.flops = flops;
  row.more.add("relative_loss", report.relative_loss).add("iterations", report.iterations).add("status", report.status);
  row.more.add("density", report.density).add("products", row.seconds.median / product.median);
  row.label += ", loss " + std::to_string(report.relative_loss);
  session.write(row);
}

void run(Session& session) {
  const auto backend = make_backend(session.device().name(), session.device().stream());
  const Options& options = session.options();
  const std::vector<std::string> names = wanted_methods(options);
  for (const std::string& name : names) static_cast<void>(find_method(name));
  for (const LayerSize& size : session.layers()) {
    const Index rank = std::min({options.number("rank", 0, 4096), size.d_out / 4, size.d_in / 4});
    const Matrix w = normal(*backend, size.d_out, size.d_in, 1);
    const Matrix gram = synthetic_gram(*backend, size.d_in, 2 * size.d_in, 2);
    const Spread product = plain_product(session, *backend, w, gram);
    for (const std::string& name : names)
      measure(session, *backend, {size, name, options.text("pattern"), rank}, w, gram, product);
  }
}

}  // namespace
}  // namespace sparlow::bench

int main(int argc, char** argv) {
  return sparlow::bench::run_program({"solvers",
                                      "whole decompositions of a synthetic layer, with their losses",
                                      {{"methods", "threebasil", "names that `sparlow methods` lists, or all"},
                                       {"pattern", "2:4", "n:m, DENSITY@row, DENSITY@matrix"},
                                       {"rank", "64", "of the low-rank part, at most a quarter of the sides"}},
                                      &sparlow::bench::run},
                                     argc, argv);
}
