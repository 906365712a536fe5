// 3BASiL as its authors' released code runs it: l follows s, the penalty grows with the share of the support that
// moved, the loop ends when the support settles, s is projected at the end and not refitted. Kept as a reference; see
// threebasil.cpp for the letters and for the faster method. Makni, Meng, Mazumder, arXiv:2603.01376.
#include <algorithm>

#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {
namespace {

constexpr double kLargestRho = 1e6;
constexpr Index kStartSteps = 4;      // the published code computes a fresh SVD; a warm subspace needs a start
constexpr Index kEarliestStop = 100;  // iterations before a nearly settled support ends the loop
constexpr double kSettled = 3e-4;

class Published {
 public:
  explicit Published(SolverContext& context)
      : context_(context),
        backend_(context.backend),
        gram_(*context.gram),
        low_rank_(context),
        w_(stack_scaled(context, gram_.scale())),
        row_counts_(stacked_rows(context.problem)) {
    for (Matrix* x : {&t_, &residual_, &scratch_, &s_}) *x = backend_.matrix(w_.rows(), w_.cols());
    mask_ = backend_.mask(w_.rows(), w_.cols());
    checked_mask_ = backend_.mask(w_.rows(), w_.cols());
    for (const Target& target : context.problem.targets)
      kept_ += context.problem.pattern.kept(target.w.rows, target.w.cols);
  }

  void run() {
    restart();
    gram_.set_shift(rho_);
    const Index limit = static_cast<Index>(context_.option("max_iterations"));
    const Index check_every = static_cast<Index>(context_.option("check_every"));
    bool settled = false;
    Index iteration = 0;
    while (iteration < limit && !settled) {
      step(iteration == 0 ? kStartSteps : 1);
      if (++iteration % check_every == 0) settled = check(iteration);
    }
    finish(settled ? "converged" : "iteration_limit", iteration);
  }

 private:
  void restart() {
    project_stacked(context_, w_, mask_);
    backend_.copy_mask(mask_, checked_mask_);
    backend_.copy(w_, t_);
    backend_.scale_by_mask(t_, mask_, 1, 0);
  }

  void step(Index low_rank_steps) {
    // residual = a - z = a - w + l
    backend_.copy(t_, residual_);
    backend_.scale_by_mask(residual_, mask_, 1, -1);
    backend_.axpby(-1, w_, 1, residual_);
    if (!low_rank_.empty()) low_rank_.multiply(1, low_rank_.b(), 1, residual_, Accuracy::reduced);
    AdmmStep step{w_, t_, mask_, residual_, scratch_, {}, s_, 1, 0, 1, context_.problem.pattern, row_counts_};
    backend_.admm_step(gram_.factor(), step);
    if (low_rank_.empty()) return;
    backend_.copy(w_, residual_);
    backend_.axpby(-1, s_, 1, residual_);
    if (low_rank_steps > 1) low_rank_.randomise(residual_);
    for (Index i = 0; i < low_rank_steps; ++i) {
      backend_.gemm(1, low_rank_.b(), Op::none, gram_.scaled(), Op::none, 0, low_rank_.kb());
      low_rank_.step(residual_, low_rank_.kb(), residual_, Accuracy::reduced);
    }
  }

  bool check(Index iteration) {
    context_.poll();
    const double moved = static_cast<double>(backend_.fetch_changed(mask_, checked_mask_)) / static_cast<double>(kept_);
    backend_.copy_mask(mask_, checked_mask_);
    if (moved == 0 && grown_) return true;
    if (moved > 0.1) set_rho(rho_ * 1.1);
    else if (moved > 0.005) set_rho(rho_ * 1.05);
    else if (moved > 0 && grown_) set_rho(rho_ * 1.02);
    else {
      set_rho(rho_ / 5);
      if (moved > 0) restart();
    }
    return iteration >= kEarliestStop && moved < kSettled;
  }

  void set_rho(double rho) {
    rho = std::min(rho, kLargestRho);
    grown_ = grown_ || rho > rho_;
    backend_.scale_by_mask(t_, mask_, 1, rho_ / rho);  // the unscaled dual is what stays continuous
    gram_.set_shift(rho);
    rho_ = rho;
  }

  void finish(const char* status, Index iterations) {
    project_stacked(context_, s_, mask_);
    backend_.scale_by_mask(s_, mask_, 1, 0);
    unstack_sparse(context_, s_, gram_.scale());
    low_rank_.balance();
    for (Solution& solution : context_.solutions) {
      solution.report.status = status;
      solution.report.iterations = iterations;
    }
  }

  SolverContext& context_;
  Backend& backend_;
  ScaledGram& gram_;
  LowRank low_rank_;
  Matrix w_, t_, residual_, scratch_, s_;
  Mask mask_, checked_mask_;
  std::vector<Index> row_counts_;
  Index kept_ = 0;
  double rho_ = context_.option("rho");
  bool grown_ = false;
};

}  // namespace

void run_threebasil_published(SolverContext& context) { Published(context).run(); }

}  // namespace sparlow
