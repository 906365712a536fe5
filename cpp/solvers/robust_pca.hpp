// Splitting a matrix into low rank and sparse by the convex relaxation, and the spectra that it needs.
#pragma once

#include <utility>
#include <vector>

#include "sparlow/solvers.hpp"

namespace sparlow {

// Singular values of x, ascending, with the singular vectors of its shorter side as columns. From x x^T or x^T x in
// f32: values below 3e-4 of the largest are rounding.
struct Spectrum {
  Matrix vectors;
  std::vector<double> sigma;
  bool left = true;  // vectors of the rows' space
};
Spectrum spectrum(Backend& backend, ConstView x);

// The iteration of robust_pca(), one step at a time.
class RobustPca {
 public:
  RobustPca(Backend& backend, ConstView w);
  // Returns ||w - l - s||_F / ||w||_F.
  double iterate();
  Index rank() const { return rank_; }  // of l
  std::pair<Matrix, Matrix> take() { return {std::move(l_), std::move(s_)}; }

 private:
  void lower_singular_values();

  Backend& backend_;
  ConstView w_;
  Matrix l_, s_, dual_, moved_, part_, scaled_;
  Spectrum spectrum_;
  double threshold_ = 0, lambda_ = 0, size_ = 0;  // 1 / mu, lambda, ||w||_F
  Index rank_ = 0;
};

}  // namespace sparlow
