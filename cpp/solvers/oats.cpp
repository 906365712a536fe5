// min over s in the pattern, rank(l) <= r of |(w - s - l) diag(d)|_F, d_j the norm of input j, by turns: l = truncated
// SVD of the rest, s = its largest entries. Zhang, Papyan, "OATS", arXiv:2409.13652. One warm subspace step a turn
// takes the place of a full SVD, and the sparse step sees l moved on along its last change (heavy ball): 20 turns then
// reach what takes 80 without. Columns are scaled by d, rows of all targets stacked; l = q b with q^T q = I.
#include "solvers/methods.hpp"
#include "solvers/scaled.hpp"

namespace sparlow {
namespace {

constexpr Index kStartSteps = 8;  // subspace steps while there is no warm start

class Oats {
 public:
  explicit Oats(SolverContext& context)
      : context_(context),
        backend_(context.backend),
        low_rank_(context),
        last_(context),
        w_(stack_scaled(context, context.gram->input_norms())),
        s_(backend_.matrix(w_.rows(), w_.cols())),
        rest_(backend_.matrix(w_.rows(), w_.cols())),
        mask_(backend_.mask(w_.rows(), w_.cols())) {}

  void run() {
    const Index iterations = low_rank_.empty() ? 1 : static_cast<Index>(context_.option("iterations"));
    for (Index i = 0; i < iterations; ++i) {
      context_.poll();
      if (!low_rank_.empty()) fit_low_rank(i == 0);
      threshold(i == 0 || i + 1 == iterations ? 0 : momentum_);
    }
    unstack_sparse(context_, s_, context_.gram->input_norms());
    low_rank_.balance({}, context_.gram->input_norms());
    for (Solution& solution : context_.solutions) {
      solution.report.status = "completed";
      solution.report.iterations = iterations;
    }
  }

 private:
  // l = best fit of w - s
  void fit_low_rank(bool first) {
    last_.assign(low_rank_);
    backend_.copy(w_, rest_);
    backend_.axpby(-1, s_, 1, rest_);
    if (first) low_rank_.randomise(rest_);
    const Index steps = first ? kStartSteps : static_cast<Index>(context_.option("low_rank_steps"));
    for (Index i = 0; i < steps; ++i) low_rank_.step(rest_, low_rank_.b(), rest_, Accuracy::reduced);
  }

  // s = largest entries of w - l, l moved on
  void threshold(double momentum) {
    low_rank_.rest(w_, momentum, last_, s_);
    project_stacked(context_, s_, mask_);
    backend_.scale_by_mask(s_, mask_, 1, 0);
  }

  SolverContext& context_;
  Backend& backend_;
  LowRank low_rank_, last_;
  Matrix w_, s_, rest_;
  Mask mask_;
  double momentum_ = context_.option("momentum");
};

}  // namespace

void run_oats(SolverContext& context) { Oats(context).run(); }

}  // namespace sparlow
