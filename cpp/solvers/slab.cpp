// w ~ s + b o (u v), b = +-1: alternates sign and rank-r fit of what s leaves with the largest |y_ij| ||x_j||_2 of what
// the signed term leaves, y = w - b o (u v), as s. Diagonal of the Gram matrix only, no refit.
// Li, Ma, Kang, "SLaB: sparse-lowrank-binary decomposition", arXiv:2604.04493.
#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"
#include "solvers/signed_term.hpp"

namespace sparlow {
namespace {

constexpr Index kPowerSteps = 2;  // of the leading singular pairs, which a sweep hardly moves

// The targets one above the other.
Matrix stack(SolverContext& context) {
  const Index cols = context.problem.targets.front().w.cols;
  Matrix ones = context.backend.matrix(1, cols);
  context.backend.upload(std::vector<float>(static_cast<std::size_t>(cols), 1.0f), ones);
  return stack_scaled(context, ones);
}

}  // namespace

void run_slab(SolverContext& context) {
  Backend& backend = context.backend;
  const Index sweeps = static_cast<Index>(context.option("sweeps"));
  SignedTerm term(context, static_cast<Index>(context.option(kSignRank)));
  Matrix w = stack(context), y = backend.matrix(w.rows(), w.cols()), score = backend.matrix(w.rows(), w.cols());
  Mask mask = backend.mask(w.rows(), w.cols());
  backend.copy(w, y);
  const auto select = [&] {
    backend.copy(y, score);
    backend.scale_columns(score, context.gram->input_norms(), false);
    project_stacked(context, score, mask);
  };
  if (context.option("sparse_first") != 0) select();
  for (Index i = 0; i < sweeps; ++i) {
    context.poll();
    // w - s is w off the support and the old term on it, which is what fit() takes there.
    term.fit(w, mask, kPowerSteps, Accuracy::full);
    backend.copy(w, y);
    backend.axpby(-1, term.dense(), 1, y);
    select();
  }
  backend.scale_by_mask(y, mask, 1, 0);
  unstack_sparse(context, y, {});
  term.store({});
  for (Solution& solution : context.solutions) {
    solution.report.status = "completed";
    solution.report.iterations = sweeps;
  }
}

}  // namespace sparlow
