// The low-rank part l = q b of each target, tracked by one warm-started subspace step at a time.
#pragma once

#include "sparlow/solvers.hpp"

namespace sparlow {

class LowRank {
 public:
  explicit LowRank(SolverContext& context);  // of the ranks that the targets ask for
  LowRank(SolverContext& context, const std::vector<Index>& ranks);

  bool empty() const { return b_.empty(); }
  // All b stacked (sum of ranks x d_in), and a buffer of the same shape for b times a metric.
  ConstView b() const { return b_.view(); }
  View kb() { return kb_.view(); }
  // Of one target.
  ConstView q(std::size_t i) const { return q_[i].view(); }
  ConstView b(std::size_t i) const;

  // q random, b = q^T residual.
  void randomise(ConstView residual);
  // q = orth(left kb^T), b = q^T residual: a subspace step for min tr((residual - l) k (residual - l)^T) when
  // left kb^T = residual k b^T.
  void step(ConstView left, ConstView kb, ConstView residual, Accuracy accuracy = Accuracy::full);
  // x = w - l - momentum (l - last), last the l of before: what a sparse part is sought for next.
  void rest(ConstView w, double momentum, const LowRank& last, View x) const;
  // The same l as another one of the same targets.
  void assign(const LowRank& other);
  // x = alpha q c + beta x, c stacked like b.
  void multiply(double alpha, ConstView c, double beta, View x, Accuracy accuracy = Accuracy::full) const;
  // u = q e diag(sqrt sigma), v = diag(1 / sqrt sigma) e^T b diag(1/scale) with the eigenvectors e and -values sigma^2
  // of b metric b^T (empty: the unit matrix): equal weight on both factors, largest first.
  void balance(ConstView metric, ConstView scale) const;
  void balance() const { balance(context_.gram->scaled(), context_.gram->scale()); }

 private:
  void balance_one(std::size_t i, ConstView b, ConstView metric, ConstView scale) const;

  SolverContext& context_;
  std::vector<Matrix> q_;
  Matrix b_, kb_;
};

}  // namespace sparlow
