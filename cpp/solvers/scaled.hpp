// Steps that several methods share, in scaled coordinates (w' = w diag(n), unit-diagonal Gram matrix), all targets
// stacked by rows.
#pragma once

#include "solvers/low_rank.hpp"
#include "sparlow/solvers.hpp"

namespace sparlow {

// Row counts of the stacked targets.
std::vector<Index> stacked_rows(const Problem& problem);

// The targets stacked, columns multiplied by scale (1 x d_in).
Matrix stack_scaled(SolverContext& context, ConstView scale);

// mask = projection of each stacked target's score on the pattern.
void project_stacked(SolverContext& context, ConstView score, MaskView mask);

// s of each target = its rows of the stacked x, columns divided by scale (empty: by nothing).
void unstack_sparse(SolverContext& context, ConstView x, ConstView scale);

// Lowers tr((w - s - l) h (w - s - l)^T) over s on its mask and l together by `steps` conjugate-gradient steps on s,
// the low-rank part refitted after each of them. low_rank null: l = 0.
void refit(SolverContext& context, ConstView w, ConstMaskView mask, Index steps, View s, LowRank* low_rank);

}  // namespace sparlow
