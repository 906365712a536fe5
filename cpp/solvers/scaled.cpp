#include "solvers/scaled.hpp"

#include <cmath>

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
    context.backend.scale_columns(s, scale, true);
    begin += s.rows();
  }
}

void low_rank_step(SolverContext& context, ConstView residual, LowRank& part) {
  Backend& backend = context.backend;
  backend.gemm(1, context.gram->scaled(), Op::none, part.b, Op::transpose, 0, part.hb);
  backend.gemm(1, residual, Op::none, part.hb, Op::none, 0, part.q);
  backend.orthonormalise(part.q);
  backend.gemm(1, part.q, Op::transpose, residual, Op::none, 0, part.b);
}

void low_rank_start(SolverContext& context, ConstView residual, Index rank, std::uint64_t seed, Index steps,
                    LowRank& part) {
  Backend& backend = context.backend;
  part.q = backend.matrix(residual.rows, rank);
  part.b = backend.matrix(rank, residual.cols);
  part.hb = backend.matrix(residual.cols, rank);
  backend.randn(part.q, seed);
  backend.orthonormalise(part.q);
  backend.gemm(1, part.q, Op::transpose, residual, Op::none, 0, part.b);
  for (Index i = 0; i < steps; ++i) low_rank_step(context, residual, part);
}

void balance(SolverContext& context, const LowRank& part, Decomposition& factors) {
  Backend& backend = context.backend;
  const Index rank = part.b.rows();
  Matrix hb = backend.matrix(part.b.cols(), rank), basis = backend.matrix(rank, rank), values = backend.matrix(1, rank);
  backend.gemm(1, context.gram->scaled(), Op::none, part.b, Op::transpose, 0, hb);
  backend.gemm(1, part.b, Op::none, hb, Op::none, 0, basis);
  backend.small_eigh(basis, values);
  const std::vector<float> energy = backend.fetch_values(values), columns = backend.fetch_values(basis);
  std::vector<float> left(columns.size()), right(columns.size());
  for (Index i = 0; i < rank; ++i) {
    const Index from = rank - 1 - i;  // eigenvalues ascend, singular values should descend
    const double root = std::sqrt(std::sqrt(std::max(energy[from], 0.0f)));
    if (root == 0) continue;  // a direction without energy: both factors stay 0
    for (Index k = 0; k < rank; ++k) {
      left[k * rank + i] = static_cast<float>(columns[k * rank + from] * root);
      right[k * rank + i] = static_cast<float>(columns[k * rank + from] / root);
    }
  }
  backend.upload(left, basis);
  backend.gemm(1, part.q, Op::none, basis, Op::none, 0, factors.u);
  backend.upload(right, basis);
  backend.gemm(1, basis, Op::transpose, part.b, Op::none, 0, factors.v);
  backend.scale_columns(factors.v, context.gram->scale(), true);
}

void refit_sparse(SolverContext& context, ConstView target, ConstMaskView mask, Index steps, View x) {
  Backend& backend = context.backend;
  Matrix residual = backend.matrix(x.rows, x.cols), direction = backend.matrix(x.rows, x.cols),
         product = backend.matrix(x.rows, x.cols), norms = backend.matrix(x.rows, 1);
  backend.copy(target, direction);
  backend.axpby(-1, x, 1, direction);
  CgState state{x, residual, direction, product, mask, norms};
  backend.cg_start(context.gram->factor(), state);
  for (Index i = 0; i < steps; ++i) backend.cg_step(context.gram->factor(), state);
}

}  // namespace sparlow
