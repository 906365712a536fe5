// min over s in the pattern, rank(l) <= r of tr((w-s-l) h (w-s-l)^T), l = q b, by ADMM on (s, l) against a sparse copy.
// Objective and constraints of Makni, Meng, Mazumder, "3BASiL", arXiv:2603.01376; the splitting differs, and reaches
// their loss in a fraction of the iterations: l is fitted with s already eliminated (theirs follows s, which hides what
// l could still explain while the penalty is small), columns are scaled by leverage, the penalty follows a fixed ramp
// and the result is refitted. threebasil_published.cpp is their own loop.
// Letters, scaled coordinates, rows of all targets stacked: w (d_out x d_in) target, t state, a its reflection (see
// AdmmStep), rho penalty, m the smoother h (h + rho I)^-1: rho m is the metric of l once s is eliminated.
#include <cmath>

#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"
#include "solvers/signed_term.hpp"

namespace sparlow {
namespace {

constexpr Index kStartSteps = 3;   // subspace steps before the low-rank part has a warm start
constexpr Index kStartSweeps = 5;  // of the signed term on the weight itself
constexpr Index kFinalSweeps = 2;
constexpr Index kPowerSteps = 2;

ScaledGram& with_leverage(ScaledGram& gram) {
  gram.scale_by_leverage();
  return gram;
}

// The more of w the low-rank part can take, the softer the start that lets it; short runs need a firmer one.
// Constants from runs on layers of SmolLM2-135M.
double default_rho_start(const Problem& problem, Index iterations) {
  double low_rank = 0, dense = 0;
  for (const Target& target : problem.targets) {
    low_rank += static_cast<double>(target.rank * (target.w.rows + target.w.cols));
    dense += static_cast<double>(target.w.rows * target.w.cols);
  }
  return std::max(0.2 / (1 + 25 * low_rank / dense), 2.0 / static_cast<double>(iterations));
}

double default_rho_end(bool low_rank) { return low_rank ? 0.6 : 0.8; }

class ThreeBasil {
 public:
  ThreeBasil(SolverContext& context, Index sign_rank)
      : context_(context),
        backend_(context.backend),
        gram_(with_leverage(*context.gram)),
        low_rank_(context),
        signed_(context, sign_rank),
        target_(stack_scaled(context, gram_.scale())),
        row_counts_(stacked_rows(context.problem)) {
    for (Matrix* x : {&w_, &t_, &residual_, &scratch_, &velocity_})
      *x = backend_.matrix(target_.rows(), target_.cols());
    mask_ = backend_.mask(target_.rows(), target_.cols());
    if (rho_start_ == 0) rho_start_ = default_rho_start(context.problem, iterations_);
    if (rho_end_ == 0) rho_end_ = default_rho_end(!low_rank_.empty());
    rho_end_ = std::max(rho_end_, rho_start_);
  }

  void run() {
    start();
    for (Index i = 0; i < iterations_; ++i) {
      if (i % update_every_ == 0) {
        context_.poll();
        gram_.set_shift(penalty(i));
      }
      fit_low_rank(i == 0 ? kStartSteps : 1);
      step(i);
      if (!signed_.empty() && i + 1 < iterations_) turn_signed();
    }
    finish();
  }

 private:
  // w = target - c
  void move_target() {
    backend_.copy(target_, w_);
    if (!signed_.empty()) backend_.axpby(-1, signed_.dense(), 1, w_);
  }

  // t = w on its projection, residual = w - a
  void start() {
    move_target();
    project_stacked(context_, w_, mask_);
    for (Index i = 0; i < kStartSweeps && !signed_.empty(); ++i) {
      signed_.fit(target_, mask_, kPowerSteps, Accuracy::reduced);
      move_target();
      project_stacked(context_, w_, mask_);
    }
    backend_.copy(w_, t_);
    backend_.scale_by_mask(t_, mask_, 1, 0);
    backend_.copy(w_, residual_);
    backend_.axpby(-1, t_, 1, residual_);
  }

  // Geometric from rho_start to rho_end, held for update_every iterations at a time.
  double penalty(Index iteration) const {
    const Index step = iteration / update_every_, last = (iterations_ - 1) / update_every_;
    const double progress = last == 0 ? 1 : std::min(1.0, static_cast<double>(step) / static_cast<double>(last));
    return rho_start_ * std::pow(rho_end_ / rho_start_, progress);
  }

  // l = q b for the metric k on w - a; then residual = l - (w - a) = a - z.
  void fit_low_rank(Index steps) {
    if (low_rank_.empty()) return;  // see AdmmStep::negated
    if (steps > 1) low_rank_.randomise(residual_);
    for (Index i = 0; i < steps; ++i) {
      gram_.factor().apply_smoother(low_rank_.b(), low_rank_.kb());  // b k up to the factor rho
      low_rank_.step(residual_, low_rank_.kb(), residual_, Accuracy::reduced);
    }
    low_rank_.multiply(1, low_rank_.b(), -1, residual_, Accuracy::reduced);
  }

  void step(Index iteration) {
    const double next = penalty(std::min(iteration + 1, iterations_ - 1));
    if (iteration + 1 == iterations_) s_ = backend_.matrix(w_.rows(), w_.cols());
    AdmmStep step = step_with(penalty(iteration) / next);
    backend_.admm_step(gram_.factor(), step);
  }

  AdmmStep step_with(double dual_scale) {
    return {w_,
            t_,
            mask_,
            residual_,
            scratch_,
            velocity_,
            s_,
            relaxation_,
            momentum_,
            dual_scale,
            context_.problem.pattern,
            row_counts_,
            low_rank_.empty()};
  }

  // Fits c to the state off the mask; with w, t moves so that t + c stays what it is.
  void turn_signed() {
    signed_.turn(target_, mask_, t_, w_);
    project_stacked(context_, t_, mask_);
    AdmmStep step = step_with(1);
    backend_.admm_reflect(step);
  }

  // The last s + c, split anew.
  void finish_signed() {
    Matrix sum = backend_.matrix(s_.rows(), s_.cols());
    signed_.form();
    backend_.copy(s_, sum);
    backend_.axpby(1, signed_.dense(), 1, sum);
    for (Index i = 0; i < kFinalSweeps; ++i) {
      signed_.fit(sum, mask_, kPowerSteps, Accuracy::full);
      backend_.copy(sum, s_);
      backend_.axpby(-1, signed_.dense(), 1, s_);
      if (i + 1 < kFinalSweeps) project_stacked(context_, s_, mask_);
    }
    move_target();
    signed_.store(gram_.scale());
  }

  void finish() {
    if (!signed_.empty()) finish_signed();
    else project_stacked(context_, s_, mask_);
    backend_.scale_by_mask(s_, mask_, 1, 0);
    refit(context_, w_, mask_, static_cast<Index>(context_.option("refit_steps")), s_, &low_rank_);
    unstack_sparse(context_, s_, gram_.scale());
    low_rank_.balance();
    for (Solution& solution : context_.solutions) {
      solution.report.status = "completed";
      solution.report.iterations = iterations_;
    }
  }

  SolverContext& context_;
  Backend& backend_;
  ScaledGram& gram_;
  LowRank low_rank_;
  SignedTerm signed_;
  Matrix target_, w_, t_, residual_, scratch_, velocity_, s_;
  Mask mask_;
  std::vector<Index> row_counts_;
  Index iterations_ = static_cast<Index>(context_.option("iterations"));
  Index update_every_ = static_cast<Index>(context_.option("update_every"));
  double rho_start_ = context_.option("rho_start");
  double rho_end_ = context_.option("rho_end");
  double relaxation_ = context_.option("relaxation");
  double momentum_ = context_.option("momentum");
};

}  // namespace

void run_threebasil(SolverContext& context) { ThreeBasil(context, 0).run(); }

void run_slab_joint(SolverContext& context) {
  ThreeBasil(context, static_cast<Index>(context.option(kSignRank))).run();
}

}  // namespace sparlow
