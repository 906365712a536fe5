#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "sparlow/solvers.hpp"

namespace sparlow {
namespace {

void check_target(Backend& backend, const Method& method, const Problem& problem, const Target& target) {
  const ConstView w = target.w;
  problem.pattern.check_shape(w.rows, w.cols, target.name);
  require(target.rank >= 0 && target.rank <= std::min(w.rows, w.cols), target.name, ": rank ", target.rank,
          " is outside [0, ", std::min(w.rows, w.cols), "] for a ", w.rows, " x ", w.cols, " weight");
  require(method.low_rank || target.rank == 0, target.name, ": ", method.name, " has no low-rank part, yet rank ",
          target.rank, " was asked for; use rank 0 or a method that has one");
  if (!backend.fetch_all_finite(w)) fail(ErrorCode::numerical, target.name, ": the weight contains NaN or Inf");
}

void check_problem(Backend& backend, const Method& method, const Problem& problem) {
  require(!problem.targets.empty(), "no weights to solve for");
  for (const Target& target : problem.targets) {
    check_target(backend, method, problem, target);
    require(problem.gram.empty() || target.w.cols == problem.gram.cols, target.name, ": d_in = ", target.w.cols,
            " but the Gram matrix is ", problem.gram.rows, " x ", problem.gram.cols);
  }
  // Other methods check the Gram matrix when they scale it.
  if (method.gram == Method::GramUse::none && !backend.fetch_all_finite(problem.gram))
    fail(ErrorCode::numerical, "the Gram matrix contains NaN or Inf; check the activations that were calibrated on");
  require(method.gram == Method::GramUse::none || !problem.gram.empty(), method.name,
          " needs the Gram matrix of the layer's inputs");
}

std::vector<Solution> allocate(Backend& backend, const Problem& problem, Index sign_rank) {
  std::vector<Solution> solutions(problem.targets.size());
  for (std::size_t i = 0; i < solutions.size(); ++i) {
    const Target& target = problem.targets[i];
    const auto [rows, cols] = std::pair(target.w.rows, target.w.cols);
    Decomposition& factors = solutions[i].factors;
    factors.s = backend.matrix(rows, cols);
    factors.u = backend.matrix(rows, target.rank);
    factors.v = backend.matrix(target.rank, cols);
    if (sign_rank == 0) continue;
    require(sign_rank <= std::min(rows, cols), target.name, ": ", kSignRank, " ", sign_rank, " is larger than min(",
            rows, ", ", cols, ")");
    factors.signs = backend.mask(rows, cols);
    factors.sign_u = backend.matrix(rows, sign_rank);
    factors.sign_v = backend.matrix(sign_rank, cols);
  }
  return solutions;
}

// e -= b o (sign_u sign_v)
void subtract_signed(Backend& backend, const Decomposition& factors, View e) {
  Matrix term = backend.matrix(e.rows, e.cols);
  backend.gemm(1, factors.sign_u, Op::none, factors.sign_v, Op::none, 0, term);
  backend.scale_by_mask(term, factors.signs, 1, -1);
  backend.axpby(-1, term, 1, e);
}

// e = w - s - u v - b o (sign_u sign_v)
Matrix residual(Backend& backend, ConstView w, const Decomposition& factors) {
  Matrix e = backend.matrix(w.rows, w.cols);
  backend.copy(w, e);
  backend.axpby(-1, factors.s, 1, e);
  if (!factors.u.empty()) backend.gemm(-1, factors.u, Op::none, factors.v, Op::none, 1, e);
  if (!factors.signs.empty()) subtract_signed(backend, factors, e);
  return e;
}

double ratio(double loss, double energy) { return loss == 0 ? 0 : loss / energy; }

void measure(Backend& backend, const Problem& problem, const Target& target, Solution& solution) {
  const Decomposition& factors = solution.factors;
  Matrix e = residual(backend, target.w, factors);
  if (!backend.fetch_all_finite(e))
    fail(ErrorCode::numerical, target.name, ": the solver diverged (NaN or Inf in the result); raise the damping");
  Mask zeros = backend.mask(e.rows(), e.cols()), support = backend.mask(e.rows(), e.cols());
  backend.nonzeros(factors.s, support);
  solution.report.density =
      static_cast<double>(backend.fetch_changed(support, zeros)) / static_cast<double>(e.rows() * e.cols());
  if (problem.gram.empty()) {
    solution.report.loss = solution.report.relative_loss = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  solution.report.loss = backend.fetch_quadratic(e, problem.gram);
  solution.report.relative_loss = ratio(solution.report.loss, backend.fetch_quadratic(target.w, problem.gram));
}

}  // namespace

void SolverContext::poll() const {
  if (problem.should_stop && problem.should_stop()) fail(ErrorCode::cancelled, "stopped on request");
}

std::vector<Solution> solve(Backend& backend, std::string_view method_name, const Problem& problem,
                            const OptionValues& options) {
  const auto start = std::chrono::steady_clock::now();
  const Method& method = find_method(method_name);
  const OptionValues values = resolve_options(method, options);
  check_problem(backend, method, problem);
  std::optional<ScaledGram> gram;
  if (method.gram != Method::GramUse::none)
    gram.emplace(backend, problem.gram, problem.damping, method.gram == Method::GramUse::diagonal);
  const Index sign_rank = method.signed_term ? static_cast<Index>(values.at(kSignRank)) : 0;
  std::vector<Solution> solutions = allocate(backend, problem, sign_rank);
  SolverContext context{backend, problem, gram ? &*gram : nullptr, values, solutions, method};
  method.run(context);
  for (std::size_t i = 0; i < solutions.size(); ++i) measure(backend, problem, problem.targets[i], solutions[i]);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  for (Solution& solution : solutions) {
    solution.report.seconds = elapsed.count();
    if (!gram) continue;
    solution.report.dead_columns = gram->dead_columns();
    if (method.gram == Method::GramUse::full) solution.report.damping_used = gram->damping_used();
  }
  return solutions;
}

double relative_loss(Backend& backend, ConstView w, ConstView w_hat, ConstView gram) {
  Matrix e = backend.matrix(w.rows, w.cols);
  backend.copy(w, e);
  backend.axpby(-1, w_hat, 1, e);
  return ratio(backend.fetch_quadratic(e, gram), backend.fetch_quadratic(w, gram));
}

}  // namespace sparlow
