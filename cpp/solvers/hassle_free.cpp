// min over s in the pattern, rank(l) <= r of tr((w-s-l) h (w-s-l)^T) by turns: s = pruned w - l, l = best fit of w - s;
// the best pair of all turns is kept. Makni, Behdin, Xu, Ponomareva, Mazumder, "HASSLE-free", arXiv:2502.00899; the
// low-rank step in closed form as in the 3BASiL code of the same authors, by warm subspace steps instead of an SVD. The
// pruner sees l moved on along its last change (heavy ball), and the best pair is refitted: their objective, lower
// losses. Scaled coordinates, rows of all targets stacked; l = q b with q^T q = I and b = q^T (w - s).
#include <limits>
#include <optional>

#include "solvers/methods.hpp"
#include "solvers/pruners.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {
namespace {

constexpr Index kStartSteps = 8;   // subspace steps while there is no warm start
constexpr Index kPrunerRefit = 5;  // of an alps step; its ten would be undone by the next turn

class HassleFree {
 public:
  explicit HassleFree(SolverContext& context)
      : context_(context),
        backend_(context.backend),
        low_rank_(context),
        last_(context),
        best_low_rank_(context),
        w_(stack_scaled(context, context.gram->scale())) {
    for (Matrix* x : {&s_, &best_s_, &gap_, &gradient_}) *x = backend_.matrix(w_.rows(), w_.cols());
    if (context.choice("pruner") == "sparsegpt") columns_.emplace(context, 128);
    else admm_.emplace(context, AdmmPruner::Settings{option("pruner_iterations"), 3, kPrunerRefit, 0.1});
  }

  void run() {
    const Index iterations = low_rank_.empty() ? 1 : option("iterations");
    for (Index i = 0; i < iterations; ++i) {
      context_.poll();
      prune(i);
      keep_best(fit_low_rank(i == 0));
    }
    finish(iterations);
  }

 private:
  Index option(const char* name) const { return static_cast<Index>(context_.option(name)); }

  void prune(Index turn) {
    const View target = columns_ ? s_.view() : gap_.view();
    low_rank_.rest(w_, turn > 1 ? momentum_ : 0, last_, target);
    if (columns_) columns_->prune(target);
    else admm_->prune(target, s_);
  }

  // l for this s; returns the damped loss, <(w - s) h, w - s> - <b h, b>.
  double fit_low_rank(bool first) {
    backend_.copy(w_, gap_);
    backend_.axpby(-1, s_, 1, gap_);
    backend_.gemm(1, gap_, Op::none, context_.gram->scaled(), Op::none, 0, gradient_);
    const double loss = backend_.fetch_dot(gradient_, gap_);
    if (low_rank_.empty()) return loss;
    last_.assign(low_rank_);
    if (first) low_rank_.randomise(gap_);
    for (Index i = 0; i < (first ? kStartSteps : option("low_rank_steps")); ++i)
      low_rank_.step(gradient_, low_rank_.b(), gap_);
    backend_.gemm(1, low_rank_.b(), Op::none, context_.gram->scaled(), Op::none, 0, low_rank_.kb());
    return loss - backend_.fetch_dot(low_rank_.kb(), low_rank_.b());
  }

  void keep_best(double loss) {
    if (!(loss < best_loss_)) return;
    best_loss_ = loss;
    backend_.copy(s_, best_s_);
    best_low_rank_.assign(low_rank_);
  }

  void finish(Index iterations) {
    const Index steps = option("refit_steps");
    if (steps > 0) {
      Mask mask = backend_.mask(w_.rows(), w_.cols());
      backend_.nonzeros(best_s_, mask);
      refit(context_, w_, mask, steps, best_s_, &best_low_rank_);
    }
    unstack_sparse(context_, best_s_, context_.gram->scale());
    best_low_rank_.balance();
    for (Solution& solution : context_.solutions) {
      solution.report.status = "completed";
      solution.report.iterations = iterations;
    }
  }

  SolverContext& context_;
  Backend& backend_;
  LowRank low_rank_, last_, best_low_rank_;
  Matrix w_, s_, best_s_, gap_, gradient_;
  std::optional<ColumnPruner> columns_;
  std::optional<AdmmPruner> admm_;
  double momentum_ = context_.option("momentum");
  double best_loss_ = std::numeric_limits<double>::infinity();
};

}  // namespace

void run_hassle_free(SolverContext& context) { HassleFree(context).run(); }

}  // namespace sparlow
