// min over s in the pattern of tr((w - s) h (w - s)^T), greedily: columns from left to right, each pruned entry made up
// by the columns not yet passed as well as they can. Frantar, Alistarh, "SparseGPT", arXiv:2301.00774.
// u is the upper triangular factor of h^-1 = u^T u; pruning w_j now costs (w_j / u_jj)^2. Scaling columns changes
// neither that nor the result, so the scaled coordinates of the other methods serve.
// n:m chooses a group's entries when its first column is reached, from the weights as adjusted so far. Densities are
// met in every block of columns: over all its rows (@matrix, as published) or in each row (@row).
#include <algorithm>

#include "solvers/methods.hpp"
#include "solvers/pruners.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {
namespace {

Index block_width(const Pattern& pattern, Index block) {
  if (pattern.kind != Pattern::Kind::nm) return block;
  return std::max<Index>(1, block / pattern.m) * pattern.m;
}

// The pattern's share of the columns [begin, end): shares of consecutive blocks add up to what the pattern keeps.
Pattern share_of(const Pattern& pattern, Index rows, Index begin, Index end) {
  const auto up_to = [&](Index cols) { return cols == 0 ? 0 : pattern.kept(rows, cols); };
  Pattern share = pattern;
  share.density = static_cast<double>(up_to(end) - up_to(begin)) / static_cast<double>(rows * (end - begin));
  return share;
}

}  // namespace

ColumnPruner::ColumnPruner(SolverContext& context, Index block)
    : context_(context),
      row_counts_(stacked_rows(context.problem)),
      width_(block_width(context.problem.pattern, block)) {}

// Densities: mask = the entries of a block of columns that may stay.
void ColumnPruner::choose(ConstView x, Index begin, MaskView mask) const {
  Backend& backend = context_.backend;
  Matrix score = backend.matrix(x.rows, x.cols);
  backend.copy(x, score);
  backend.scale_columns(score, context_.gram->inverse_factor_diagonal().col_slice(begin, x.cols), true);
  Index row = 0;
  for (Index rows : row_counts_) {
    const Pattern share = share_of(context_.problem.pattern, rows, begin, begin + x.cols);
    if (share.density > 0) backend.project(score.view().row_slice(row, rows), share, mask.row_slice(row, rows));
    row += rows;
  }
}

void ColumnPruner::prune(View x) {
  const Pattern& pattern = context_.problem.pattern;
  if (pattern.kind == Pattern::Kind::dense) return;
  Backend& backend = context_.backend;
  const ConstView u = context_.gram->inverse_factor(), diagonal = context_.gram->inverse_factor_diagonal();
  Matrix errors = backend.matrix(x.rows, std::min(width_, x.cols));
  for (Index begin = 0; begin < x.cols; begin += width_) {
    context_.poll();
    const Index cols = std::min(width_, x.cols - begin), right = x.cols - begin - cols;
    const View part = x.col_slice(begin, cols), error = errors.view().col_slice(0, cols);
    const ConstView rows = u.row_slice(begin, cols);
    Mask mask = backend.mask(x.rows, cols);
    if (pattern.kind != Pattern::Kind::nm) choose(part, begin, mask);
    ColumnPruning block{part, rows.col_slice(begin, cols), diagonal.col_slice(begin, cols), mask, error, pattern};
    backend.prune_columns(block);
    if (right > 0)
      backend.gemm(-1, error, Op::none, rows.col_slice(begin + cols, right), Op::none, 1,
                   x.col_slice(begin + cols, right), Accuracy::reduced);
  }
}

void run_sparsegpt(SolverContext& context) {
  ColumnPruner pruner(context, static_cast<Index>(context.option("block")));
  const ConstView scale = context.gram->scale();
  const Matrix w = stack_scaled(context, scale);
  Matrix s = context.backend.matrix(w.rows(), w.cols());
  context.backend.copy(w, s);
  pruner.prune(s);
  if (const auto steps = static_cast<Index>(context.option("refit_steps")); steps > 0) {
    Mask mask = context.backend.mask(w.rows(), w.cols());
    context.backend.nonzeros(s, mask);
    refit(context, w, mask, steps, s, nullptr);
  }
  unstack_sparse(context, s, scale);
  for (Solution& solution : context.solutions) solution.report.status = "direct";
}

}  // namespace sparlow
