// Factorisations: the shifted inverse, orthonormal bases, small eigenproblems.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/blas.hpp"
#include "cpu/cpu_backend.hpp"
#include "cpu/parallel.hpp"
#include "cpu/products.hpp"

namespace sparlow::cpu {
namespace {

constexpr double kWellConditioned = 1e-10;  // smallest acceptable ratio of squared pivots in CholeskyQR

class CpuGramFactor final : public GramFactor {
 public:
  explicit CpuGramFactor(ConstView gram) : gram_(gram), smoother_(static_cast<std::size_t>(gram.rows * gram.rows)) {}

  ConstView matrix() const override { return gram_; }

 protected:
  void do_set_shift(double shift) override {
    ready_ = false;
    const Index n = gram_.rows;
    const View inverse(smoother_.data(), n, n);
    for (Index i = 0; i < n; ++i) {
      std::copy_n(gram_.row(i), n, inverse.row(i));
      inverse.row(i)[i] += static_cast<float>(shift);
    }
    if (!invert_spd(inverse))
      fail(ErrorCode::numerical, "the ", n, " x ", n, " Gram matrix + ", shift, " I is not positive definite");
    for_rows(inverse, [&](Index i) {  // I - shift p
      float* row = inverse.row(i);
      const double diagonal = 1 - shift * row[i];
      for (Index j = 0; j < n; ++j) row[j] *= -static_cast<float>(shift);
      row[i] = static_cast<float>(diagonal);
    });
    ready_ = true;
  }

  void do_apply_smoother(ConstView x, View y) override {
    if (!ready_) fail(ErrorCode::internal, "apply_smoother before set_shift");
    gemm(1, x, Op::none, {smoother_.data(), gram_.rows, gram_.rows}, Op::none, 0, y);
  }

  void do_smoother_diagonal(View out) override {
    if (!ready_) fail(ErrorCode::internal, "smoother_diagonal before set_shift");
    for (Index i = 0; i < gram_.rows; ++i) out.data[i] = smoother_[i * gram_.rows + i];
  }

 private:
  ConstView gram_;
  std::vector<float> smoother_;  // holds h + shift I and its inverse on the way
  bool ready_ = false;
};

// One pass of Cholesky QR on columns scaled to unit norm; false when the columns are too nearly dependent.
bool cholesky_qr(std::vector<double>& y, Index rows, Index cols) {
  const int m = static_cast<int>(rows), n = static_cast<int>(cols);
  std::vector<double> gram(static_cast<std::size_t>(cols * cols));
  SPARLOW_BLAS(cblas_dsyrk)(CblasRowMajor, CblasUpper, CblasTrans, n, m, 1.0, y.data(), n, 0.0, gram.data(), n);
  std::vector<double> inverse_norm(static_cast<std::size_t>(cols));
  for (Index j = 0; j < cols; ++j) {
    const double squared = gram[j * cols + j];
    if (!(squared > 0)) return false;
    inverse_norm[j] = 1 / std::sqrt(squared);
  }
  for (Index i = 0; i < cols; ++i)
    for (Index j = i; j < cols; ++j) gram[i * cols + j] *= inverse_norm[i] * inverse_norm[j];
  int info = 0;
  SPARLOW_BLAS(dpotrf_)("L", &n, gram.data(), &n, &info, 1);
  if (info != 0) return false;
  for (Index j = 0; j < cols; ++j)
    if (gram[j * cols + j] * gram[j * cols + j] < kWellConditioned) return false;
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) y[i * cols + j] *= inverse_norm[j];
  SPARLOW_BLAS(cblas_dtrsm)(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, m, n, 1.0, gram.data(),
                            n, y.data(), n);
  return true;
}

// Householder QR always yields an orthonormal basis, also of a rank-deficient matrix.
void householder_qr(std::vector<double>& y, Index rows, Index cols) {
  const int m = static_cast<int>(rows), n = static_cast<int>(cols);
  std::vector<double> columns(y.size()), tau(static_cast<std::size_t>(cols));
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) columns[j * rows + i] = y[i * cols + j];
  int info = 0;
  const int length = std::max(1, 64 * n);
  std::vector<double> work(static_cast<std::size_t>(length));
  SPARLOW_BLAS(dgeqrf_)(&m, &n, columns.data(), &m, tau.data(), work.data(), &length, &info);
  if (info == 0) SPARLOW_BLAS(dorgqr_)(&m, &n, &n, columns.data(), &m, tau.data(), work.data(), &length, &info);
  if (info != 0) fail(ErrorCode::internal, "QR factorisation rejected argument ", -info);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) y[i * cols + j] = columns[j * rows + i];
}

}  // namespace

std::unique_ptr<GramFactor> CpuBackend::do_factor(ConstView gram) { return std::make_unique<CpuGramFactor>(gram); }

void CpuBackend::do_orthonormalise(View y) {
  std::vector<double> wide(static_cast<std::size_t>(y.size()));
  for (Index i = 0; i < y.rows; ++i) std::copy_n(y.row(i), y.cols, &wide[i * y.cols]);
  const std::vector<double> original = wide;
  if (!cholesky_qr(wide, y.rows, y.cols) || !cholesky_qr(wide, y.rows, y.cols)) {
    wide = original;
    householder_qr(wide, y.rows, y.cols);
  }
  for (Index i = 0; i < y.rows; ++i)
    for (Index j = 0; j < y.cols; ++j) y.row(i)[j] = static_cast<float>(wide[i * y.cols + j]);
}

void CpuBackend::do_small_eigh(View a, View values) {
  const int n = static_cast<int>(a.rows);
  std::vector<double> matrix(static_cast<std::size_t>(a.size())), eigenvalues(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) std::copy_n(a.row(i), n, &matrix[i * n]);
  const int length = 1 + 6 * n + 2 * n * n, integers = 3 + 5 * n;
  std::vector<double> work(static_cast<std::size_t>(length));
  std::vector<int> iwork(static_cast<std::size_t>(integers));
  int info = 0;
  SPARLOW_BLAS(dsyevd_)("V", "L", &n, matrix.data(), &n, eigenvalues.data(), work.data(), &length, iwork.data(),
                        &integers, &info, 1, 1);
  if (info != 0) fail(ErrorCode::numerical, "the eigensolver failed on a ", n, " x ", n, " matrix (", info, ")");
  for (Index i = 0; i < n; ++i) {
    values.data[i] = static_cast<float>(eigenvalues[i]);
    for (Index j = 0; j < n; ++j) a.row(i)[j] = static_cast<float>(matrix[j * n + i]);  // column-major in LAPACK
  }
}

}  // namespace sparlow::cpu
