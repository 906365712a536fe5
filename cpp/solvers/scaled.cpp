#include "solvers/scaled.hpp"

namespace sparlow {

std::vector<Index> stacked_rows(const Problem& problem) {
  std::vector<Index> rows;
  for (const Target& target : problem.targets) rows.push_back(target.w.rows);
  return rows;
}

Matrix stack_scaled(SolverContext& context, ConstView scale) {
  Index rows = 0;
  for (const Target& target : context.problem.targets) rows += target.w.rows;
  Matrix stacked = context.backend.matrix(rows, scale.cols);
  Index begin = 0;
  for (const Target& target : context.problem.targets) {
    context.backend.copy(target.w, stacked.view().row_slice(begin, target.w.rows));
    begin += target.w.rows;
  }
  context.backend.scale_columns(stacked, scale, false);
  return stacked;
}

void project_stacked(SolverContext& context, ConstView score, MaskView mask) {
  Index begin = 0;
  for (Index rows : stacked_rows(context.problem)) {
    context.backend.project(score.row_slice(begin, rows), context.problem.pattern, mask.row_slice(begin, rows));
    begin += rows;
  }
}

void unstack_sparse(SolverContext& context, ConstView x, ConstView scale) {
  Index begin = 0;
  for (Solution& solution : context.solutions) {
    Matrix& s = solution.factors.s;
    context.backend.copy(x.row_slice(begin, s.rows()), s);
    if (!scale.empty()) context.backend.scale_columns(s, scale, true);
    begin += s.rows();
  }
}

void refit(SolverContext& context, ConstView w, ConstMaskView mask, Index steps, View s, LowRank* low_rank) {
  Backend& backend = context.backend;
  const ConstView h = context.gram->scaled();
  const bool fitted = low_rank != nullptr && !low_rank->empty();
  Matrix gap = backend.matrix(w.rows, w.cols), gradient = backend.matrix(w.rows, w.cols),
         own = fitted ? backend.matrix(w.rows, w.cols) : Matrix(), residual = backend.matrix(w.rows, w.cols),
         direction = backend.matrix(w.rows, w.cols), product = backend.matrix(w.rows, w.cols),
         norms = backend.matrix(w.rows, 1);
  backend.copy(w, gap);
  backend.axpby(-1, s, 1, gap);
  backend.gemm(1, gap, Op::none, h, Op::none, 0, gradient);
  const View full = fitted ? own.view() : gradient.view();  // (gap - l) h
  const auto fit_low_rank = [&] {                           // best l for this gap
    if (!fitted) return;
    backend.copy(gradient, full);
    low_rank->step(gradient, low_rank->b(), gap);
    backend.gemm(1, low_rank->b(), Op::none, h, Op::none, 0, low_rank->kb());
    low_rank->multiply(-1, low_rank->kb(), 1, full);
  };
  CgState state{gap, gradient, full, residual, direction, product, mask, norms};
  fit_low_rank();
  backend.cg_start(state);
  for (Index i = 0; i < steps; ++i) {
    backend.gemm(1, direction, Op::none, h, Op::none, 0, product, Accuracy::reduced);
    backend.cg_move(state);
    fit_low_rank();
    if (i + 1 < steps) backend.cg_turn(state);
  }
  backend.copy(w, s);
  backend.axpby(-1, gap, 1, s);
  backend.scale_by_mask(s, mask, 1, 0);
}

}  // namespace sparlow
