// Steps that several methods share, in scaled coordinates (w' = w diag(n), unit-diagonal Gram matrix).
#pragma once

#include "sparlow/solvers.hpp"

namespace sparlow {

// w: all targets stacked, columns multiplied by scale (1 x d_in).
Matrix stack_scaled(SolverContext& context, ConstView scale);

// Row counts of the stacked targets.
std::vector<Index> stacked_rows(const Problem& problem);

// mask = projection of each stacked target's score on the pattern.
void project_stacked(SolverContext& context, ConstView score, MaskView mask);

// s of each target = its rows of the stacked x, columns divided by scale.
void unstack_sparse(SolverContext& context, ConstView x, ConstView scale);

// Low-rank part q b of one target: q (d_out x r) orthonormal, b (r x d_in).
struct LowRank {
  Matrix q, b, hb;  // hb = h b^T, d_in x r
};

// One warm-started subspace step for min tr((residual - q b) h (residual - q b)^T).
void low_rank_step(SolverContext& context, ConstView residual, LowRank& part);
// The same from a random subspace, with `steps` steps.
void low_rank_start(SolverContext& context, ConstView residual, Index rank, std::uint64_t seed, Index steps,
                    LowRank& part);
// u = q e diag(sqrt sigma), v = diag(1/sqrt sigma) e^T b diag(1/n): equal norms in both factors, largest first.
void balance(SolverContext& context, const LowRank& part, Decomposition& factors);

// `steps` masked conjugate-gradient steps on x (zero off the mask) towards target.
void refit_sparse(SolverContext& context, ConstView target, ConstMaskView mask, Index steps, View x);

}  // namespace sparlow
