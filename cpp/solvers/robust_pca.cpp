// min ||l||_* + lambda ||s||_1 over w = l + s by ADMM: singular values of w - s + z lowered by 1/mu, entries of
// w - l + z lowered by lambda/mu, z the scaled dual. Stage one of Zhou et al., "Large Language Model Compression with
// Global Rank and Sparsity Optimization", arXiv:2505.03801; lambda = 1/sqrt(max(m, n)), mu = m n / (4 sum |w_ij|).
#include "solvers/robust_pca.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace sparlow {
namespace {

double sum_of_magnitudes(Backend& backend, ConstView w) {
  double sum = 0;
  for (float value : backend.fetch_values(w)) sum += std::abs(value);
  return sum;
}

double norm(Backend& backend, ConstView x) { return std::sqrt(backend.fetch_dot(x, x)); }

}  // namespace

Spectrum spectrum(Backend& backend, ConstView x) {
  Spectrum found;
  found.left = x.rows <= x.cols;
  const Index size = std::min(x.rows, x.cols);
  found.vectors = backend.matrix(size, size);
  Matrix values = backend.matrix(1, size);
  backend.gemm(1, x, found.left ? Op::none : Op::transpose, x, found.left ? Op::transpose : Op::none, 0, found.vectors);
  backend.small_eigh(found.vectors, values);
  for (float value : backend.fetch_values(values)) found.sigma.push_back(std::sqrt(std::max(value, 0.0f)));
  return found;
}

RobustPca::RobustPca(Backend& backend, ConstView w)
    : backend_(backend),
      w_(w),
      l_(backend.matrix(w.rows, w.cols)),
      s_(backend.matrix(w.rows, w.cols)),
      dual_(backend.matrix(w.rows, w.cols)),
      moved_(backend.matrix(w.rows, w.cols)),
      part_(backend.matrix(std::min(w.rows, w.cols), std::max(w.rows, w.cols))),
      scaled_(backend.matrix(std::min(w.rows, w.cols), std::min(w.rows, w.cols))) {
  threshold_ = 4 * sum_of_magnitudes(backend, w) / static_cast<double>(w.size());
  lambda_ = 1 / std::sqrt(static_cast<double>(std::max(w.rows, w.cols)));
  size_ = norm(backend, w);
}

double RobustPca::iterate() {
  backend_.copy(w_, moved_);
  backend_.axpby(-1, s_, 1, moved_);
  backend_.axpby(1, dual_, 1, moved_);
  lower_singular_values();
  backend_.copy(w_, moved_);
  backend_.axpby(-1, l_, 1, moved_);
  backend_.axpby(1, dual_, 1, moved_);
  backend_.copy(moved_, s_);
  backend_.shrink(s_, lambda_ * threshold_);
  backend_.axpby(1, moved_, 0, dual_);
  backend_.axpby(-1, s_, 1, dual_);
  backend_.copy(w_, moved_);
  backend_.axpby(-1, l_, 1, moved_);
  backend_.axpby(-1, s_, 1, moved_);
  return size_ == 0 ? 0 : norm(backend_, moved_) / size_;
}

// l = the part of `moved` with every singular value lowered by the threshold
void RobustPca::lower_singular_values() {
  spectrum_ = spectrum(backend_, moved_);
  const Index size = static_cast<Index>(spectrum_.sigma.size());
  std::vector<float> kept(spectrum_.sigma.size());
  rank_ = 0;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (spectrum_.sigma[i] <= threshold_) continue;
    kept[i] = static_cast<float>(1 - threshold_ / spectrum_.sigma[i]);
    ++rank_;
  }
  Matrix factors = backend_.matrix(1, size);
  backend_.upload(kept, factors);
  backend_.copy(spectrum_.vectors, scaled_);
  backend_.scale_columns(scaled_, factors, false);
  if (spectrum_.left) {
    backend_.gemm(1, spectrum_.vectors, Op::transpose, moved_, Op::none, 0, part_);
    backend_.gemm(1, scaled_, Op::none, part_, Op::none, 0, l_);
  } else {
    backend_.gemm(1, spectrum_.vectors, Op::transpose, moved_, Op::transpose, 0, part_);
    backend_.gemm(1, part_, Op::transpose, scaled_, Op::transpose, 0, l_);
  }
}

void best_factors(Backend& backend, ConstView x, View u, View v) {
  const Index rank = u.cols;
  if (rank == 0) return;
  const Spectrum found = spectrum(backend, x);
  const Index size = static_cast<Index>(found.sigma.size());
  const std::vector<float> ascending = backend.fetch_values(found.vectors);
  std::vector<float> top(static_cast<std::size_t>(size * rank)), roots;
  for (Index k = 0; k < rank; ++k) {
    roots.push_back(static_cast<float>(std::sqrt(found.sigma[static_cast<std::size_t>(size - 1 - k)])));
    for (Index i = 0; i < size; ++i) top[i * rank + k] = ascending[i * size + size - 1 - k];
  }
  Matrix basis = backend.matrix(size, rank), scale = backend.matrix(1, rank), inverse = backend.matrix(u.rows, rank);
  backend.upload(top, basis);
  backend.upload(roots, scale);
  if (found.left) {
    backend.copy(basis, u);
  } else {  // not divided by singular values, which would be inexact where they are small
    backend.gemm(1, x, Op::none, basis, Op::none, 0, u);
    backend.orthonormalise(u);
  }
  backend.copy(u, inverse);
  backend.scale_columns(inverse, scale, true);
  backend.gemm(1, inverse, Op::transpose, x, Op::none, 0, v);
  backend.scale_columns(u, scale, false);
}

PrincipalParts robust_pca(Backend& backend, ConstView w, Index max_iterations, double tolerance,
                          const std::function<void()>& poll) {
  require(max_iterations >= 1 && tolerance >= 0, "robust_pca: ", max_iterations, " iterations with tolerance ",
          tolerance, "; at least 1 and 0 are needed");
  if (!backend.fetch_all_finite(w)) fail(ErrorCode::numerical, "robust_pca: the weight contains NaN or Inf");
  RobustPca split(backend, w);
  PrincipalParts parts;
  do {
    poll();
    parts.gap = split.iterate();
    ++parts.iterations;
  } while (parts.gap > tolerance && parts.iterations < max_iterations);
  parts.converged = parts.gap <= tolerance;
  parts.rank = split.rank();
  std::tie(parts.l, parts.s) = split.take();
  return parts;
}

}  // namespace sparlow
