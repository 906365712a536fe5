#include <algorithm>
#include <cmath>

#include "sparlow/problem.hpp"

namespace sparlow {
namespace {

constexpr double kFirstRaise = 1e-6;  // used when no damping was asked for
constexpr double kLargestDamping = 1.0;

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

ScaledGram::ScaledGram(Backend& backend, ConstView gram, Damping damping)
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
  scaled_ = backend.matrix(gram.rows, gram.cols);
  scale_ = backend.matrix(1, gram.cols);
  build();
}

void ScaledGram::build() {
  double sum = 0;
  for (float d : diagonal_) sum += d;
  const double mean = sum / static_cast<double>(static_cast<Index>(diagonal_.size()) - dead_columns_);
  std::vector<float> scale(diagonal_.size()), inverse(diagonal_.size());
  for (std::size_t j = 0; j < diagonal_.size(); ++j) {
    if (diagonal_[j] == 0) continue;  // a dead input: its row and column vanish, its weights become 0
    const double damped = diagonal_[j] * (1 + damping_.diagonal) + damping_.mean * mean;
    scale[j] = static_cast<float>(std::sqrt(damped));
    inverse[j] = static_cast<float>(1 / std::sqrt(damped));
  }
  backend_.upload(scale, scale_);
  Matrix inverse_scale = backend_.matrix(1, gram_.cols);
  backend_.upload(inverse, inverse_scale);
  backend_.normalise_gram(gram_, inverse_scale, scaled_);
  factor_ = backend_.factor(scaled_);
}

void ScaledGram::set_shift(double shift) {
  for (;;) {
    try {
      factor_->set_shift(shift);
      return;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::numerical) throw;
    }
    const double raise = damping_used() > 0 ? 10 : 0;
    damping_ = raise > 0 ? Damping{damping_.diagonal * raise, damping_.mean * raise} : Damping{0, kFirstRaise};
    if (damping_used() > kLargestDamping)
      fail(ErrorCode::numerical, "the Gram matrix stays indefinite with damping raised above ", kLargestDamping,
           "; it is not x^T x");
    build();
  }
}

}  // namespace sparlow
