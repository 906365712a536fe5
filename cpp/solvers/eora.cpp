// min over rank(l) <= r of tr((w-s-l) h (w-s-l)^T) for the s of a pruner, h the damped Gram matrix. The minimum is the
// truncated SVD of (w - s) h^1/2, times h^-1/2; subspace steps find its left vectors q without a root of h, and
// l = q q^T (w - s). S.-Y. Liu et al., "EoRA", arXiv:2410.21271.
#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {
namespace {

// Runs the chosen method of the registry with its defaults on this problem; it fills s.
void prune(SolverContext& context) {
  const Method& method = find_method(context.choice("pruner"));
  const OptionValues options = resolve_options(method, {});
  SolverContext inner{context.backend, context.problem, context.gram, options, context.solutions, method};
  method.run(inner);
}

// (w - s) diag(n), stacked
Matrix scaled_gap(SolverContext& context) {
  const ConstView scale = context.gram->scale();
  Matrix gap = stack_scaled(context, scale), s = context.backend.matrix(gap.rows(), gap.cols());
  Index begin = 0;
  for (const Solution& solution : context.solutions) {
    context.backend.copy(solution.factors.s, s.view().row_slice(begin, solution.factors.s.rows()));
    begin += solution.factors.s.rows();
  }
  context.backend.scale_columns(s, scale, false);
  context.backend.axpby(-1, s, 1, gap);
  return gap;
}

}  // namespace

void run_eora(SolverContext& context) {
  prune(context);
  LowRank low_rank(context);
  if (low_rank.empty()) return;
  Matrix gap = scaled_gap(context), gradient = context.backend.matrix(gap.rows(), gap.cols());
  context.backend.gemm(1, gap, Op::none, context.gram->scaled(), Op::none, 0, gradient);
  low_rank.randomise(gap);
  const Index steps = static_cast<Index>(context.option("low_rank_steps"));
  for (Index i = 0; i < steps; ++i) low_rank.step(gradient, low_rank.b(), gap);
  low_rank.balance();
}

}  // namespace sparlow
