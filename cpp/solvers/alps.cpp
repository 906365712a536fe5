// min over s in the pattern of tr((w - s) h (w - s)^T) by ADMM against a sparse copy of s, whose penalty grows with the
// share of the support that moved; then conjugate gradients on the support.
// Meng, Behdin, Wang, Mazumder, "ALPS", arXiv:2406.07831. State t and reflection a as in AdmmStep.
#include <algorithm>

#include "solvers/methods.hpp"
#include "solvers/pruners.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {
namespace {

constexpr double kLargestRho = 1e6;
constexpr Index kEarliestStop = 30;  // iterations before a nearly settled support ends the loop
constexpr double kSettled = 3e-4;

}  // namespace

AdmmPruner::AdmmPruner(SolverContext& context, Settings settings)
    : context_(context), settings_(settings), row_counts_(stacked_rows(context.problem)) {
  Index rows = 0;
  const Index cols = context.gram->scaled().cols;
  for (Index count : row_counts_) {
    rows += count;
    kept_ += static_cast<double>(context.problem.pattern.kept(count, cols));
  }
  for (Matrix* x : {&t_, &residual_, &scratch_}) *x = context.backend.matrix(rows, cols);
  mask_ = context.backend.mask(rows, cols);
  checked_mask_ = context.backend.mask(rows, cols);
}

AdmmPruner::Outcome AdmmPruner::prune(ConstView w, View s) {
  rho_ = settings_.rho;
  grown_ = false;
  context_.gram->set_shift(rho_);
  restart(w);
  Index iteration = 0;
  bool settled = false;
  while (iteration < settings_.max_iterations && !settled) {
    const bool last = ++iteration == settings_.max_iterations, checked = iteration % settings_.check_every == 0;
    step(w, last || checked ? s : View());
    if (checked) settled = check(w, iteration);
  }
  project_stacked(context_, s, mask_);
  context_.backend.scale_by_mask(s, mask_, 1, 0);
  if (settings_.refit_steps > 0) refit(context_, w, mask_, settings_.refit_steps, s, nullptr);
  return {settled, iteration};
}

void AdmmPruner::restart(ConstView w) {
  project_stacked(context_, w, mask_);
  context_.backend.copy_mask(mask_, checked_mask_);
  context_.backend.copy(w, t_);
  context_.backend.scale_by_mask(t_, mask_, 1, 0);
  reflect(w, 1);
}

void AdmmPruner::reflect(ConstView w, double dual_scale) {
  AdmmStep step = step_of(w, {});
  step.dual_scale = dual_scale;
  context_.backend.admm_reflect(step);
}

AdmmStep AdmmPruner::step_of(ConstView w, View s) {
  return {w, t_, mask_, residual_, scratch_, {}, s, 1, 0, 1, context_.problem.pattern, row_counts_, true};
}

void AdmmPruner::step(ConstView w, View s) {
  AdmmStep step = step_of(w, s);
  context_.backend.admm_step(context_.gram->factor(), step);
}

// Sets the next penalty; whether the support has settled.
bool AdmmPruner::check(ConstView w, Index iteration) {
  context_.poll();
  const double moved = static_cast<double>(context_.backend.fetch_changed(mask_, checked_mask_)) / kept_;
  context_.backend.copy_mask(mask_, checked_mask_);
  if (moved == 0 && grown_) return true;
  const double last = rho_;
  if (moved > 0.1) rho_ *= 1.3;
  else if (moved > 0.005) rho_ *= 1.2;
  else if (moved > 0 && grown_) rho_ *= 1.1;
  else rho_ /= 5;
  rho_ = std::min(rho_, kLargestRho);
  grown_ = grown_ || rho_ > last;
  context_.gram->set_shift(rho_);
  if (moved > 0 && !grown_) restart(w);
  else reflect(w, last / rho_);  // the unscaled dual is what stays continuous
  return iteration > kEarliestStop && moved < kSettled;
}

void run_alps(SolverContext& context) {
  const auto count = [&](const char* name) { return static_cast<Index>(context.option(name)); };
  AdmmPruner pruner(context,
                    {count("max_iterations"), count("check_every"), count("refit_steps"), context.option("rho")});
  const ConstView scale = context.gram->scale();
  Matrix w = stack_scaled(context, scale), s = context.backend.matrix(w.rows(), w.cols());
  const AdmmPruner::Outcome outcome = pruner.prune(w, s);
  unstack_sparse(context, s, scale);
  for (Solution& solution : context.solutions) {
    solution.report.status = outcome.settled ? "converged" : "iteration_limit";
    solution.report.iterations = outcome.iterations;
  }
}

}  // namespace sparlow
