// The inverse factor of a Gram matrix and the pruning of columns with it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/cpu_backend.hpp"
#include "cpu/multiversion.hpp"
#include "cpu/parallel.hpp"
#include "cpu/products.hpp"

namespace sparlow::cpu {
namespace {

constexpr Index kBase = 64;                  // size up to which plain loops factor a block
constexpr float kSmallestPivot = 4 * 6e-8f;  // squared pivots below this part of their diagonal entry are rounding

View block(View a, Index row, Index rows, Index col, Index cols) { return a.row_slice(row, rows).col_slice(col, cols); }

// a = r r^T with r upper triangular (f64, row-major, in place of the upper triangle)
bool root_of(std::vector<double>& a, Index n, const float* smallest) {
  for (Index j = n - 1; j >= 0; --j) {
    const auto below = [&](Index i) {
      double sum = a[i * n + j];
      for (Index k = j + 1; k < n; ++k) sum -= a[i * n + k] * a[j * n + k];
      return sum;
    };
    const double squared = below(j);
    if (!(squared > smallest[j])) return false;
    a[j * n + j] = std::sqrt(squared);
    for (Index i = 0; i < j; ++i) a[i * n + j] = below(i) / a[j * n + j];
  }
  return true;
}

bool invert_root_base(View a, View u, const float* smallest) {
  const Index n = a.rows;
  std::vector<double> r(static_cast<std::size_t>(n * n)), column(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) std::copy_n(a.row(i), n, &r[i * n]);
  if (!root_of(r, n, smallest)) return false;
  for (Index j = 0; j < n; ++j)
    for (Index i = j; i >= 0; --i) {
      double sum = i == j ? 1 : 0;
      for (Index k = i + 1; k <= j; ++k) sum -= r[i * n + k] * column[k];
      column[i] = sum / r[i * n + i];
      u.row(i)[j] = static_cast<float>(column[i]);
    }
  return true;
}

// u a u^T = I by halves: u22 from a22; x = a12 u22^T; u11 from a11 - x x^T; u12 = -u11 x u22. Nearly all the work is in
// products, which run on every thread. a is destroyed; the lower triangle of u is not written.
bool invert_root(View a, View u, const float* smallest) {
  const Index n = a.rows, half = n / 2, rest = n - half;
  if (n <= kBase) return invert_root_base(a, u, smallest);
  const View u11 = block(u, 0, half, 0, half), u22 = block(u, half, rest, half, rest), a11 = block(a, 0, half, 0, half);
  if (!invert_root(block(a, half, rest, half, rest), u22, smallest + half)) return false;
  std::vector<float> storage(static_cast<std::size_t>(2 * half * rest));
  const View x(storage.data(), half, rest), y(storage.data() + half * rest, half, rest);
  gemm(1, block(a, 0, half, half, rest), Op::none, u22, Op::transpose, 0, x);
  gemm(-1, x, Op::none, x, Op::transpose, 1, a11);
  if (!invert_root(a11, u11, smallest)) return false;
  gemm(1, x, Op::none, u22, Op::none, 0, y);
  gemm(-1, u11, Op::none, y, Op::none, 0, block(u, 0, half, half, rest));
  return true;
}

SPARLOW_MULTIVERSION void row_spread(float error, const float* factor, float* w, Index n) {
  for (Index k = 0; k < n; ++k) w[k] -= error * factor[k];
}

// w_j / u_jj ranks the entries of a group: its square is what pruning j would cost now.
void choose_group(const ColumnPruning& block, const float* w, Index begin, float* score, std::uint8_t* mask) {
  const Index width = block.pattern.m;
  for (Index j = 0; j < width; ++j) score[j] = w[begin + j] / block.diagonal.data[begin + j];
  project_groups_row(score, block.pattern, mask + begin, width);
}

void prune_row(const ColumnPruning& block, Index i, float* score) {
  float *w = block.w.row(i), *error = block.error.row(i);
  std::uint8_t* mask = block.mask.row(i);
  const bool groups = block.pattern.kind == Pattern::Kind::nm;
  const Index cols = block.w.cols;
  for (Index j = 0; j < cols; ++j) {
    if (groups && j % block.pattern.m == 0) choose_group(block, w, j, score, mask);
    error[j] = 0;
    if (mask[j]) continue;
    error[j] = w[j] / block.diagonal.data[j];
    w[j] = 0;
    row_spread(error[j], block.factor.row(j) + j + 1, w + j + 1, cols - j - 1);
  }
}

}  // namespace

void CpuBackend::do_inverse_factor(ConstView gram, View u, View diagonal) {
  const Index n = gram.rows;
  std::vector<float> work(static_cast<std::size_t>(n * n)), smallest(static_cast<std::size_t>(n));
  const View a(work.data(), n, n);
  do_copy(gram, a);
  for (Index i = 0; i < n; ++i) {
    smallest[i] = kSmallestPivot * gram.row(i)[i];
    std::fill_n(u.row(i), n, 0.0f);
  }
  if (!invert_root(a, u, smallest.data()))
    fail(ErrorCode::numerical, "the ", n, " x ", n, " Gram matrix is not positive definite");
  for (Index i = 0; i < n; ++i) diagonal.data[i] = u.row(i)[i];
}

void CpuBackend::do_prune_columns(ColumnPruning& block) {
  parallel_for(block.w.rows, std::max<Index>(1, row_grain(block.w.cols) / 16), [&](Index begin, Index end) {
    std::vector<float> score(static_cast<std::size_t>(std::max(1, block.pattern.m)));
    for (Index i = begin; i < end; ++i) prune_row(block, i, score.data());
  });
}

}  // namespace sparlow::cpu
