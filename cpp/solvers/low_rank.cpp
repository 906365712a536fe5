#include "solvers/low_rank.hpp"

#include <algorithm>
#include <cmath>

namespace sparlow {

namespace {

std::vector<Index> asked_ranks(const Problem& problem) {
  std::vector<Index> ranks;
  for (const Target& target : problem.targets) ranks.push_back(target.rank);
  return ranks;
}

}  // namespace

LowRank::LowRank(SolverContext& context) : LowRank(context, asked_ranks(context.problem)) {}

LowRank::LowRank(SolverContext& context, const std::vector<Index>& ranks) : context_(context) {
  Index sum = 0;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    q_.push_back(context.backend.matrix(context.problem.targets[i].w.rows, ranks[i]));
    sum += ranks[i];
  }
  const Index d_in = context.problem.targets.front().w.cols;
  b_ = context.backend.matrix(sum, d_in);
  kb_ = context.backend.matrix(sum, d_in);
}

ConstView LowRank::b(std::size_t i) const {
  Index begin = 0;
  for (std::size_t k = 0; k < i; ++k) begin += q_[k].cols();
  return b_.view().row_slice(begin, q_[i].cols());
}

void LowRank::randomise(ConstView residual) {
  Index row = 0, rank = 0;
  for (std::size_t i = 0; i < q_.size(); ++i) {
    Matrix& q = q_[i];
    context_.backend.randn(q, context_.problem.seed + i);
    context_.backend.orthonormalise(q);
    context_.backend.gemm(1, q, Op::transpose, residual.row_slice(row, q.rows()), Op::none, 0,
                          b_.view().row_slice(rank, q.cols()));
    row += q.rows();
    rank += q.cols();
  }
}

void LowRank::step(ConstView left, ConstView kb, ConstView residual, Accuracy accuracy) {
  Index row = 0, rank = 0;
  for (Matrix& q : q_) {
    context_.backend.gemm(1, left.row_slice(row, q.rows()), Op::none, kb.row_slice(rank, q.cols()), Op::transpose, 0, q,
                          accuracy);
    context_.backend.orthonormalise(q);
    context_.backend.gemm(1, q, Op::transpose, residual.row_slice(row, q.rows()), Op::none, 0,
                          b_.view().row_slice(rank, q.cols()), accuracy);
    row += q.rows();
    rank += q.cols();
  }
}

void LowRank::assign(const LowRank& other) {
  for (std::size_t i = 0; i < q_.size(); ++i) context_.backend.copy(other.q_[i], q_[i]);
  context_.backend.copy(other.b_, b_);
}

void LowRank::multiply(double alpha, ConstView c, double beta, View x, Accuracy accuracy) const {
  Index row = 0, rank = 0;
  for (const Matrix& q : q_) {
    const View rows = x.row_slice(row, q.rows());
    if (q.empty()) context_.backend.axpby(0, rows, beta, rows);
    else context_.backend.gemm(alpha, q, Op::none, c.row_slice(rank, q.cols()), Op::none, beta, rows, accuracy);
    row += q.rows();
    rank += q.cols();
  }
}

void LowRank::rest(ConstView w, double momentum, const LowRank& last, View x) const {
  context_.backend.copy(w, x);
  if (empty()) return;
  multiply(-1 - momentum, b_, 1, x);
  if (momentum != 0) last.multiply(momentum, last.b_, 1, x);
}

void LowRank::balance(ConstView metric, ConstView scale) const {
  Index rank = 0;
  for (std::size_t i = 0; i < q_.size(); ++i) {
    if (!q_[i].empty()) balance_one(i, b_.view().row_slice(rank, q_[i].cols()), metric, scale);
    rank += q_[i].cols();
  }
}

void LowRank::balance_one(std::size_t i, ConstView b, ConstView metric, ConstView scale) const {
  Backend& backend = context_.backend;
  Decomposition& factors = context_.solutions[i].factors;
  const Index rank = b.rows;
  Matrix bh = backend.matrix(rank, b.cols), basis = backend.matrix(rank, rank), values = backend.matrix(1, rank);
  if (metric.empty()) backend.copy(b, bh);
  else backend.gemm(1, b, Op::none, metric, Op::none, 0, bh);
  backend.gemm(1, bh, Op::none, b, Op::transpose, 0, basis);
  backend.small_eigh(basis, values);
  const std::vector<float> energy = backend.fetch_values(values), columns = backend.fetch_values(basis);
  std::vector<float> left(columns.size()), right(columns.size());
  for (Index k = 0; k < rank; ++k) {
    const Index from = rank - 1 - k;  // eigenvalues ascend, singular values should descend
    const double root = std::sqrt(std::sqrt(std::max(energy[from], 0.0f)));
    if (root == 0) continue;  // a direction without energy: both factors stay 0
    for (Index j = 0; j < rank; ++j) {
      left[j * rank + k] = static_cast<float>(columns[j * rank + from] * root);
      right[j * rank + k] = static_cast<float>(columns[j * rank + from] / root);
    }
  }
  backend.upload(left, basis);
  backend.gemm(1, q_[i], Op::none, basis, Op::none, 0, factors.u);
  backend.upload(right, basis);
  backend.gemm(1, basis, Op::transpose, b, Op::none, 0, factors.v);
  backend.scale_columns(factors.v, scale, true);
}

}  // namespace sparlow
