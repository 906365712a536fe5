#include <algorithm>
#include <cmath>
#include <numeric>

#include "sparlow/problem.hpp"

namespace sparlow {
namespace {

constexpr double kFirstRaise = 1e-6;
constexpr double kLargestDamping = 1.0;
constexpr double kRidge = 0.1;           // of the regression behind the leverage, relative to the unit diagonal
constexpr double kSmallest = 1e-6;       // guards the division for an input that nothing predicts
constexpr double kSmallestShare = 1e-4;  // an input that the others predict exactly still counts for something

void check_diagonal(const std::vector<float>& diagonal) {
  bool any = false;
  for (std::size_t j = 0; j < diagonal.size(); ++j) {
    if (diagonal[j] < 0)
      fail(ErrorCode::numerical, "the Gram matrix has a negative diagonal entry (", diagonal[j], " at ", j,
           "); it must be x^T x");
    any = any || diagonal[j] > 0;
  }
  require(any, "the Gram matrix is zero: no calibration token reached this input, or every activation was 0");
}

}  // namespace

ScaledGram::ScaledGram(Backend& backend, ConstView gram, Damping damping, bool diagonal_only)
    : backend_(backend), gram_(gram), damping_(damping) {
  require(gram.rows == gram.cols && gram.rows > 0, "the Gram matrix is ", gram.rows, " x ", gram.cols, ", not square");
  require(damping.diagonal >= 0 && damping.mean >= 0 && damping_used() <= kLargestDamping, "damping coefficients (",
          damping.diagonal, ", ", damping.mean, ") must be at least 0 with a sum of at most ", kLargestDamping);
  if (!backend.fetch_all_finite(gram))
    fail(ErrorCode::numerical, "the Gram matrix contains NaN or Inf; check the activations that were calibrated on");
  diagonal_ = backend.fetch_values(ConstView(gram.data, gram.rows, 1, gram.stride + 1));
  check_diagonal(diagonal_);
  dead_columns_ = std::count(diagonal_.begin(), diagonal_.end(), 0.0f);
  std::vector<float> norms(diagonal_.size());
  std::transform(diagonal_.begin(), diagonal_.end(), norms.begin(), [](float d) { return std::sqrt(d); });
  norms_ = backend.matrix(1, gram.cols);
  backend.upload(norms, norms_);
  if (diagonal_only) return;
  scaled_ = backend.matrix(gram.rows, gram.cols);
  scale_ = backend.matrix(1, gram.cols);
  inverse_scale_ = backend.matrix(1, gram.cols);
  rescale(std::vector<double>(diagonal_.size(), 1.0));
}

void ScaledGram::scale_by_leverage() {
  set_shift(kRidge);
  Matrix smoother = backend_.matrix(1, gram_.cols);
  factor_->smoother_diagonal(smoother);
  // With unit diagonal, 1 / p_jj - ridge is the variance of input j given the others; m_jj = 1 - ridge p_jj.
  std::vector<double> unpredicted;
  for (double m : backend_.fetch_values(smoother)) unpredicted.push_back(kRidge * m / std::max(1 - m, kSmallest));
  const double mean = std::accumulate(unpredicted.begin(), unpredicted.end(), 0.0) / static_cast<double>(gram_.cols);
  for (double& c : unpredicted) c = std::max(c / mean, kSmallestShare);
  rescale(unpredicted);
}

// n_j^2 = (damped h)_jj unpredicted_j
void ScaledGram::rescale(const std::vector<double>& unpredicted) {
  const double sum = std::accumulate(diagonal_.begin(), diagonal_.end(), 0.0);
  const double mean = sum / static_cast<double>(static_cast<Index>(diagonal_.size()) - dead_columns_);
  std::vector<float> scale(diagonal_.size()), inverse(diagonal_.size());
  scaled_diagonal_.assign(diagonal_.size(), 1.0f);
  for (std::size_t j = 0; j < diagonal_.size(); ++j) {
    if (diagonal_[j] == 0) continue;  // a dead input: its row and column vanish, its weights become 0
    const double damped = diagonal_[j] * (1 + damping_.diagonal) + damping_.mean * mean;
    const double norm = std::sqrt(damped * unpredicted[j]);
    scale[j] = static_cast<float>(norm);
    inverse[j] = static_cast<float>(1 / norm);
    scaled_diagonal_[j] = static_cast<float>(1 / unpredicted[j]);
  }
  backend_.upload(scale, scale_);
  backend_.upload(inverse, inverse_scale_);
  build();
}

void ScaledGram::build() {
  std::vector<float> diagonal(scaled_diagonal_);
  for (float& d : diagonal) d = static_cast<float>(d * (1 + raised_));
  Matrix device_diagonal = backend_.matrix(1, gram_.cols);
  backend_.upload(diagonal, device_diagonal);
  backend_.normalise_gram(gram_, inverse_scale_, device_diagonal, scaled_);
  inverse_factor_ = {};
  factor_ = backend_.factor(scaled_);
}

void ScaledGram::while_raising(const std::function<void()>& attempt) {
  for (;;) {
    try {
      return attempt();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::numerical) throw;
    }
    raised_ = raised_ > 0 ? raised_ * 10 : kFirstRaise;
    if (damping_used() > kLargestDamping)
      fail(ErrorCode::numerical, "the Gram matrix stays indefinite with damping raised above ", kLargestDamping,
           "; it is not x^T x");
    build();
  }
}

void ScaledGram::set_shift(double shift) {
  while_raising([&] { factor_->set_shift(shift); });
}

ConstView ScaledGram::inverse_factor() {
  if (!inverse_factor_.empty()) return inverse_factor_.view();
  Matrix factor = backend_.matrix(gram_.rows, gram_.cols);
  inverse_factor_diagonal_ = backend_.matrix(1, gram_.cols);
  while_raising([&] { backend_.inverse_factor(scaled_, factor, inverse_factor_diagonal_); });
  inverse_factor_ = std::move(factor);
  return inverse_factor_.view();
}

}  // namespace sparlow
