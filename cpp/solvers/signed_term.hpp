// The signed term c = b o (q r) of each target, b in {-1, +1}, q r of small rank: targets stacked by rows.
#pragma once

#include "solvers/low_rank.hpp"

namespace sparlow {

class SignedTerm {
 public:
  // rank 0: no term, nothing is allocated.
  SignedTerm(SolverContext& context, Index rank);

  bool empty() const { return factors_.empty(); }
  ConstView dense() const { return dense_.view(); }  // c

  // Fits c to x off the mask: b = sign(x), then `steps` subspace steps on |x|. On the mask, where s takes up what c
  // leaves, the factors keep what they have: it neither pulls at them nor holds them back for long.
  void fit(ConstView x, ConstMaskView mask, Index steps, Accuracy accuracy);
  // One turn of ADMM beside a sparse part: fits c to t + c off the mask by one subspace step, then t and w = target - c
  // are those of the new term. dense() is renewed by form().
  void turn(ConstView target, ConstMaskView mask, View t, View w);
  void form();
  // Writes the term of each target into its solution, columns divided by scale (1 x d_in; empty: by nothing).
  void store(ConstView scale) const;

 private:
  SolverContext& context_;
  LowRank factors_;
  Matrix dense_, plain_, magnitude_;  // c, q r, what q r is fitted to
  Mask signs_;
  bool started_ = false;
};

}  // namespace sparlow
