// min over s in the pattern, rank(l) <= r of tr((w-s-l) h (w-s-l)^T) by three-block ADMM.
// Makni, Meng, Mazumder, "3BASiL", arXiv:2603.01376. Letters, in scaled coordinates, rows of all targets stacked:
// w (d_out x d_in) target, z = w - l, t = s + u single state array (u the scaled dual: 0 on the mask),
// l = q b with q (d_out x r) orthonormal, rho penalty, p = (h + rho I)^-1.
#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {
namespace {

constexpr double kLargestRho = 1e6;
constexpr Index kStartSteps = 3;  // subspace steps before the low-rank part has a warm start

class ThreeBasil {
 public:
  explicit ThreeBasil(SolverContext& context)
      : context_(context), backend_(context.backend), gram_(*context.gram), w_(stack_scaled(context, gram_.scale())) {
    for (Matrix* x : {&z_, &t_, &residual_, &scratch_}) *x = backend_.matrix(w_.rows(), w_.cols());
    mask_ = backend_.mask(w_.rows(), w_.cols());
    checked_mask_ = backend_.mask(w_.rows(), w_.cols());
    kept_ = 0;
    for (const Target& target : context.problem.targets)
      kept_ += context.problem.pattern.kept(target.w.rows, target.w.cols);
    low_rank_.resize(context.problem.targets.size());
  }

  void run() {
    restart();
    gram_.set_shift(rho_);
    std::string status = "iteration_limit";
    Index iteration = 0;
    while (iteration < limit_) {
      step(iteration++ == 0);
      if (iteration % check_every_ != 0) continue;
      context_.poll();
      if (converged(iteration)) {
        status = "converged";
        break;
      }
    }
    finish();
    for (Solution& solution : context_.solutions) {
      solution.report.status = status;
      solution.report.iterations = iteration;
    }
  }

 private:
  void restart() {
    backend_.copy(w_, z_);
    project_stacked(context_, w_, mask_);
    backend_.copy_mask(mask_, checked_mask_);
    backend_.copy(w_, t_);
    backend_.scale_by_mask(t_, mask_, 1, 0);
  }

  void step(bool first) {
    AdmmStep step{w_, z_, t_, mask_, residual_, scratch_, rho_, context_.problem.pattern,
                  stacked_rows(context_.problem)};
    backend_.admm_step(gram_.factor(), step);
    fit_low_rank(first ? kStartSteps : 1, first);
  }

  // l of each target from the rows of `residual_`, then z = w - l.
  void fit_low_rank(Index steps, bool first) {
    backend_.copy(w_, z_);
    Index begin = 0;
    for (std::size_t i = 0; i < low_rank_.size(); ++i) {
      const Target& target = context_.problem.targets[i];
      if (target.rank > 0) {
        LowRank& part = low_rank_[i];
        const ConstView rows = residual_.view().row_slice(begin, target.w.rows);
        if (first) low_rank_start(context_, rows, target.rank, context_.problem.seed + i, steps, part);
        else
          for (Index k = 0; k < steps; ++k) low_rank_step(context_, rows, part);
        backend_.gemm(-1, part.q, Op::none, part.b, Op::none, 1, z_.view().row_slice(begin, target.w.rows));
      }
      begin += target.w.rows;
    }
  }

  // The authors' schedule: the penalty grows with the share of the support that moved since the last check.
  bool converged(Index iteration) {
    const double moved = static_cast<double>(backend_.fetch_changed(mask_, checked_mask_)) / static_cast<double>(kept_);
    backend_.copy_mask(mask_, checked_mask_);
    if (moved == 0 && grown_) return true;
    if (moved > 0.1) set_rho(rho_ * 1.1);
    else if (moved > 0.005) set_rho(rho_ * 1.05);
    else if (moved > 0 && grown_) set_rho(rho_ * 1.02);
    else set_rho(rho_ / 5);
    return iteration >= 100 && moved < 3e-4;
  }

  void set_rho(double rho) {
    rho = std::min(rho, kLargestRho);
    grown_ = grown_ || rho > rho_;
    backend_.scale_by_mask(t_, mask_, 1, rho_ / rho);  // the unscaled dual is what stays continuous
    gram_.set_shift(rho);
    rho_ = rho;
  }

  // Alternates conjugate gradients on the support with low-rank steps, then returns to raw coordinates.
  void finish() {
    backend_.scale_by_mask(t_, mask_, 1, 0);
    const Index rounds = static_cast<Index>(context_.option("refit_rounds"));
    const Index cg_steps = static_cast<Index>(context_.option("refit_steps"));
    for (Index round = 0; round < rounds; ++round) {
      refit_sparse(context_, z_, mask_, cg_steps, t_);
      backend_.copy(w_, residual_);
      backend_.axpby(-1, t_, 1, residual_);
      fit_low_rank(1, false);
    }
    unstack_sparse(context_, t_, gram_.scale());
    for (std::size_t i = 0; i < low_rank_.size(); ++i)
      if (!low_rank_[i].q.empty()) balance(context_, low_rank_[i], context_.solutions[i].factors);
  }

  SolverContext& context_;
  Backend& backend_;
  ScaledGram& gram_;
  Matrix w_, z_, t_, residual_, scratch_;
  Mask mask_, checked_mask_;
  std::vector<LowRank> low_rank_;
  Index kept_ = 0;
  double rho_ = context_.option("rho");
  Index limit_ = static_cast<Index>(context_.option("max_iterations"));
  Index check_every_ = static_cast<Index>(context_.option("check_every"));
  bool grown_ = false;
};

}  // namespace

void run_threebasil(SolverContext& context) { ThreeBasil(context).run(); }

}  // namespace sparlow
