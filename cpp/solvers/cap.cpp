// Robust PCA splits w into low rank and sparse, from the weight alone; the sparse part, projected on the pattern, then
// leaves the best low-rank part of the asked rank, and takes what that leaves on its support.
// Zhou et al., "Large Language Model Compression with Global Rank and Sparsity Optimization", arXiv:2505.03801, stage
// one; how its ranks and densities are chosen over a whole model is stage two, in python/sparlow/allocation.
#include "solvers/methods.hpp"
#include "solvers/robust_pca.hpp"

namespace sparlow {
namespace {

// s = x on the mask
void keep(Backend& backend, ConstView x, ConstMaskView mask, View s) {
  backend.copy(x, s);
  backend.scale_by_mask(s, mask, 1, 0);
}

void split(SolverContext& context, const Target& target, Solution& solution) {
  Backend& backend = context.backend;
  Decomposition& factors = solution.factors;
  const PrincipalParts parts = robust_pca(backend, target.w, static_cast<Index>(context.option("iterations")),
                                          context.option("tolerance"), [&] { context.poll(); });
  solution.report.iterations = parts.iterations;
  solution.report.status = parts.converged ? "converged" : "iteration_limit";
  Matrix rest = backend.matrix(target.w.rows, target.w.cols);
  Mask mask = backend.mask(target.w.rows, target.w.cols);
  backend.copy(target.w, rest);
  backend.axpby(-1, parts.l, 1, rest);
  backend.project(rest, context.problem.pattern, mask);
  keep(backend, rest, mask, factors.s);
  backend.copy(target.w, rest);
  backend.axpby(-1, factors.s, 1, rest);
  best_factors(backend, rest, factors.u, factors.v);
  backend.copy(target.w, rest);
  backend.gemm(-1, factors.u, Op::none, factors.v, Op::none, 1, rest);
  keep(backend, rest, mask, factors.s);
}

}  // namespace

void run_cap(SolverContext& context) {
  for (std::size_t i = 0; i < context.solutions.size(); ++i) {
    const Target& target = context.problem.targets[i];
    if (target.rank > 0) {
      split(context, target, context.solutions[i]);
      continue;
    }
    Mask mask = context.backend.mask(target.w.rows, target.w.cols);  // nothing to split: magnitude pruning
    context.backend.project(target.w, context.problem.pattern, mask);
    keep(context.backend, target.w, mask, context.solutions[i].factors.s);
    context.solutions[i].report.status = "direct";
  }
}

}  // namespace sparlow
