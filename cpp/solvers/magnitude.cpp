// Keeps the largest |w|; no data, no update of the kept weights.
#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {

void run_magnitude(SolverContext& context) {
  Backend& backend = context.backend;
  for (std::size_t i = 0; i < context.solutions.size(); ++i) {
    const ConstView w = context.problem.targets[i].w;
    Matrix& s = context.solutions[i].factors.s;
    Mask mask = backend.mask(w.rows, w.cols);
    backend.project(w, context.problem.pattern, mask);
    backend.copy(w, s);
    backend.scale_by_mask(s, mask, 1, 0);
    context.solutions[i].report.status = "direct";
  }
}

}  // namespace sparlow
