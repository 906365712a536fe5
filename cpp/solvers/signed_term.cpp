#include "solvers/signed_term.hpp"

#include <cmath>

namespace sparlow {
namespace {

constexpr Index kStartSteps = 3;  // subspace steps that make up for a random start

std::vector<Index> equal_ranks(const SolverContext& context, Index rank) {
  return std::vector<Index>(context.problem.targets.size(), rank);
}

}  // namespace

SignedTerm::SignedTerm(SolverContext& context, Index rank)
    : context_(context), factors_(context, equal_ranks(context, rank)) {
  if (factors_.empty()) return;
  Index rows = 0;
  for (const Target& target : context.problem.targets) rows += target.w.rows;
  const Index cols = context.problem.targets.front().w.cols;
  for (Matrix* x : {&dense_, &plain_, &magnitude_}) *x = context.backend.matrix(rows, cols);
  signs_ = context.backend.mask(rows, cols);
}

void SignedTerm::fit(ConstView x, ConstMaskView mask, Index steps, Accuracy accuracy) {
  Backend& backend = context_.backend;
  backend.signs(x, signs_);
  backend.copy(x, magnitude_);
  backend.scale_by_mask(magnitude_, signs_, 1, -1);
  backend.scale_by_mask(magnitude_, mask, 0, 1);
  backend.scale_by_mask(plain_, mask, 1, 0);
  backend.axpby(1, plain_, 1, magnitude_);
  if (!started_) {
    factors_.randomise(magnitude_);
    steps += kStartSteps;
    started_ = true;
  }
  for (Index i = 0; i < steps; ++i) factors_.step(magnitude_, factors_.b(), magnitude_, accuracy);
  factors_.multiply(1, factors_.b(), 0, plain_, accuracy);
  form();
}

void SignedTerm::turn(ConstView target, ConstMaskView mask, View t, View w) {
  SignedTurn turn{target, w, t, mask, signs_, plain_, magnitude_};
  context_.backend.signed_gather(turn);
  factors_.step(magnitude_, factors_.b(), magnitude_, Accuracy::reduced);
  factors_.multiply(1, factors_.b(), 0, plain_, Accuracy::reduced);
  context_.backend.signed_spread(turn);
}

void SignedTerm::form() {
  context_.backend.copy(plain_, dense_);
  context_.backend.scale_by_mask(dense_, signs_, 1, -1);
}

void SignedTerm::store(ConstView scale) const {
  Backend& backend = context_.backend;
  Index row = 0;
  for (std::size_t i = 0; i < context_.solutions.size(); ++i) {
    Decomposition& found = context_.solutions[i].factors;
    const ConstView q = factors_.q(i), b = factors_.b(i);
    // Equal weight on both factors, so that neither leaves the range of a 16-bit type.
    const double size = std::sqrt(backend.fetch_dot(b, b) / static_cast<double>(b.rows));
    const double root = size > 0 ? std::sqrt(size) : 1;
    backend.axpby(root, q, 0, found.sign_u);
    backend.axpby(1 / root, b, 0, found.sign_v);
    if (!scale.empty()) backend.scale_columns(found.sign_v, scale, true);
    backend.copy_mask(ConstMaskView(signs_.view()).row_slice(row, q.rows), found.signs);
    row += q.rows;
  }
}

}  // namespace sparlow
