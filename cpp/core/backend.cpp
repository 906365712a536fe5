#include "sparlow/backend.hpp"

#include <cmath>
#include <limits>

#include "core/shapes.hpp"

namespace sparlow {
namespace {

Index op_rows(ConstView a, Op op) { return op == Op::none ? a.rows : a.cols; }
Index op_cols(ConstView a, Op op) { return op == Op::none ? a.cols : a.rows; }

std::size_t bytes_of(const char* op, Index rows, Index cols, std::size_t element) {
  require(rows >= 0 && cols >= 0, op, ": negative size ", rows, " x ", cols);
  const Index limit = std::numeric_limits<Index>::max() / static_cast<Index>(element);
  if (cols > 0 && rows > limit / cols)
    fail(ErrorCode::out_of_memory, op, ": a ", rows, " x ", cols, " matrix exceeds the address space");
  return static_cast<std::size_t>(rows * cols) * element;
}

}  // namespace

void GramFactor::set_shift(double shift) {
  require(std::isfinite(shift), "set_shift: the shift is ", shift);
  if (shift == shift_) return;
  shift_ = std::numeric_limits<double>::quiet_NaN();
  do_set_shift(shift);
  shift_ = shift;
}

void GramFactor::apply_smoother(ConstView x, View y) {
  same_shape("apply_smoother", x, y);
  require(x.cols == size(), "apply_smoother: x has ", x.cols, " columns, the factor ", size());
  disjoint("apply_smoother", ConstView(y), x);
  if (!x.empty()) do_apply_smoother(x, y);
}

void GramFactor::smoother_diagonal(View out) {
  require(out.rows == 1 && out.cols == size(), "smoother_diagonal: the output is not 1 x ", size());
  do_smoother_diagonal(out);
}

Matrix Backend::matrix(Index rows, Index cols) {
  return {do_allocate(bytes_of("matrix", rows, cols, sizeof(float))), rows, cols};
}

Mask Backend::mask(Index rows, Index cols) { return {do_allocate(bytes_of("mask", rows, cols, 1)), rows, cols}; }

void Backend::upload(const std::vector<float>& values, View out) {
  require(static_cast<Index>(values.size()) == out.size(), "upload: ", values.size(), " values for a ", out.rows, " x ",
          out.cols, " matrix");
  if (!out.empty()) do_upload(values.data(), out);
}

std::vector<float> Backend::fetch_values(ConstView x) {
  std::vector<float> values(static_cast<std::size_t>(x.size()));
  if (!x.empty()) do_download(x, values.data());
  return values;
}

void Backend::copy(ConstView x, View out) {
  same_shape("copy", x, out);
  if (!x.empty()) do_copy(x, out);
}

void Backend::copy_mask(ConstMaskView x, MaskView out) {
  same_shape("copy_mask", x, out);
  if (!x.empty()) do_copy_mask(x, out);
}

void Backend::gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c, Accuracy accuracy) {
  require(op_rows(a, op_a) == c.rows && op_cols(b, op_b) == c.cols && op_cols(a, op_a) == op_rows(b, op_b), "gemm: (",
          op_rows(a, op_a), " x ", op_cols(a, op_a), ") (", op_rows(b, op_b), " x ", op_cols(b, op_b),
          ") does not give ", c.rows, " x ", c.cols);
  disjoint("gemm", ConstView(c), a);
  disjoint("gemm", ConstView(c), b);
  if (c.empty()) return;
  do_gemm(alpha, a, op_a, b, op_b, beta, c, accuracy);
}

void Backend::gram_update(TypedView x, View gram) {
  square("gram_update", gram);
  require(x.cols == gram.cols, "gram_update: x has ", x.cols, " columns, the Gram matrix ", gram.cols);
  if (x.rows == 0 || x.cols == 0) return;
  const Index width = x.dtype == DType::f32 ? 4 : 2;
  const BasicView<const std::uint8_t> bytes(static_cast<const std::uint8_t*>(x.data), x.rows, x.cols * width,
                                            x.stride * width);
  disjoint("gram_update", ConstView(gram), bytes);
  do_gram_update(x, gram);
}

void Backend::symmetrise(View gram) {
  square("symmetrise", gram);
  do_symmetrise(gram);
}

void Backend::normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out) {
  square("normalise_gram", gram);
  same_shape("normalise_gram", gram, out);
  for (const ConstView& vector : {inverse_scale, diagonal})
    require(vector.rows == 1 && vector.cols == gram.cols, "normalise_gram: scale or diagonal is not 1 x ", gram.cols);
  do_normalise_gram(gram, inverse_scale, diagonal, out);
}

void Backend::shrink(View x, double threshold) {
  require(threshold >= 0, "shrink: the threshold is ", threshold);
  if (!x.empty()) do_shrink(x, threshold);
}

void Backend::axpby(double alpha, ConstView x, double beta, View y) {
  same_shape("axpby", x, y);
  if (!x.empty()) do_axpby(alpha, x, beta, y);
}

void Backend::scale_columns(View x, ConstView scale, bool inverse) {
  require(scale.rows == 1 && scale.cols == x.cols, "scale_columns: scale is not 1 x ", x.cols);
  if (!x.empty()) do_scale_columns(x, scale, inverse);
}

void Backend::randn(View out, std::uint64_t seed) {
  if (!out.empty()) do_randn(out, seed);
}

void Backend::orthonormalise(View y) {
  require(y.rows >= y.cols, "orthonormalise: ", y.rows, " rows cannot hold ", y.cols, " orthonormal columns");
  if (!y.empty()) do_orthonormalise(y);
}

void Backend::small_eigh(View a, View values) {
  square("small_eigh", a);
  require(values.rows == 1 && values.cols == a.cols, "small_eigh: values is not 1 x ", a.cols);
  if (!a.empty()) do_small_eigh(a, values);
}

std::unique_ptr<GramFactor> Backend::factor(ConstView gram) {
  square("factor", gram);
  return do_factor(gram);
}

void Backend::inverse_factor(ConstView gram, View u, View diagonal) {
  square("inverse_factor", gram);
  same_shape("inverse_factor", gram, u);
  require(diagonal.rows == 1 && diagonal.cols == gram.cols, "inverse_factor: diagonal is not 1 x ", gram.cols);
  disjoint("inverse_factor", ConstView(u), gram);
  if (!gram.empty()) do_inverse_factor(gram, u, diagonal);
}

bool Backend::fetch_all_finite(ConstView x) { return x.empty() || do_all_finite(x); }

double Backend::fetch_dot(ConstView x, ConstView y) {
  same_shape("fetch_dot", x, y);
  return x.empty() ? 0.0 : do_dot(x, y);
}

double Backend::fetch_quadratic(ConstView e, ConstView gram) {
  square("fetch_quadratic", gram);
  require(e.cols == gram.cols, "fetch_quadratic: e has ", e.cols, " columns, the Gram matrix ", gram.cols);
  return e.empty() ? 0.0 : do_quadratic(e, gram);
}

void Backend::project(ConstView score, const Pattern& pattern, MaskView mask) {
  same_shape("project", score, mask);
  pattern.check_shape(score.rows, score.cols, "project");
  do_project(score, pattern, mask);
}

void Backend::nonzeros(ConstView x, MaskView mask) {
  same_shape("nonzeros", x, mask);
  if (!x.empty()) do_nonzeros(x, mask);
}

void Backend::signs(ConstView x, MaskView mask) {
  same_shape("signs", x, mask);
  if (!x.empty()) do_signs(x, mask);
}

Index Backend::fetch_changed(ConstMaskView a, ConstMaskView b) {
  same_shape("fetch_changed", a, b);
  return a.empty() ? 0 : do_changed(a, b);
}

void Backend::scale_by_mask(View x, ConstMaskView mask, double kept, double pruned) {
  same_shape("scale_by_mask", x, mask);
  if (!x.empty()) do_scale_by_mask(x, mask, kept, pruned);
}

}  // namespace sparlow
