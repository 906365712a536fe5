// Keeps the largest |w_ij| ||x_j||_2; no update of the kept weights. Sun, Liu, Bair, Kolter, arXiv:2306.11695.
#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {

void run_wanda(SolverContext& context) {
  Backend& backend = context.backend;
  for (std::size_t i = 0; i < context.solutions.size(); ++i) {
    const ConstView w = context.problem.targets[i].w;
    Matrix& s = context.solutions[i].factors.s;
    Mask mask = backend.mask(w.rows, w.cols);
    backend.copy(w, s);
    backend.scale_columns(s, context.gram->input_norms(), false);
    backend.project(s, context.problem.pattern, mask);
    backend.copy(w, s);  // not divided back: kept weights stay bit for bit
    backend.scale_by_mask(s, mask, 1, 0);
    context.solutions[i].report.status = "direct";
  }
}

}  // namespace sparlow
