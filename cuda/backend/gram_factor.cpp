#include "backend/gram_factor.hpp"

#include <array>
#include <cmath>
#include <numbers>

#include "backend/inverse.hpp"

namespace sparlow::cuda {
namespace {

constexpr Index kSmall = 256;           // factors below are inverted afresh and multiplied in f32
constexpr double kLargestRatio = 1.75;  // of shifts, for an update by polynomial: relative error below 1e-3
constexpr int kLargestUpdates = 16;     // their rounding errors add up
constexpr Index kThin = 256;            // rows up to which converting to f16 costs more than it saves ...
constexpr Index kWide = 2048;           // ... unless reading the smoother is what takes the time

// Coefficients of the cubic through the Chebyshev points of g(m) = 1 / (ratio - (ratio - 1) m) on [0, 1]. With
// ratio = new / old shift the new smoother is m g(m): a smooth, relatively small change of every eigenvalue.
std::array<double, 4> update_polynomial(double ratio) {
  std::array<double, 4> nodes{}, differences{}, c{};
  for (int k = 0; k < 4; ++k) {
    nodes[k] = (1 + std::cos((2 * k + 1) * std::numbers::pi / 8)) / 2;
    differences[k] = 1 / (ratio - (ratio - 1) * nodes[k]);
  }
  for (int order = 1; order < 4; ++order)
    for (int k = 3; k >= order; --k)
      differences[k] = (differences[k] - differences[k - 1]) / (nodes[k] - nodes[k - order]);
  for (int k = 3; k >= 0; --k) {  // Newton's form, expanded from the inside
    for (int power = 3; power > 0; --power) c[power] = c[power - 1] - nodes[k] * c[power];
    c[0] = differences[k] - nodes[k] * c[0];
  }
  return c;
}

}  // namespace

CudaGramFactor::CudaGramFactor(std::shared_ptr<Context> context, const Precision& precision, ConstView gram)
    : context_(std::move(context)), precision_(precision), products_(*context_), gram_(gram) {
  smoother_ = context_->allocate(static_cast<std::size_t>(gram.size()) * sizeof(float));
}

bool CudaGramFactor::halves(Index rows) const {
  return precision_ == Precision::f16 && half_ready_ && (rows > kThin || gram_.rows >= kWide);
}

bool CudaGramFactor::can_update(double shift) const {
  return ready_ && halves(kThin + 1) && shift > current_ && shift <= kLargestRatio * current_ &&
         updates_ < kLargestUpdates;
}

void CudaGramFactor::do_set_shift(double shift) {
  const Context::Bind bind(*context_);
  if (can_update(shift)) {
    update(shift / current_);
    ++updates_;
  } else {
    ready_ = false;
    if (!restore(shift)) {
      invert(shift);
      keep_if_repeated(shift);
    }
    updates_ = 0;
  }
  current_ = shift;
  half_ready_ = precision_ == Precision::f16 && gram_.rows >= kSmall && shift > 0;
  if (half_ready_) make_half();
  ready_ = true;
}

void CudaGramFactor::invert(double shift) {
  const Index n = gram_.rows;
  const View x = smoother();
  check(cudaMemcpy2DAsync(x.data, x.stride * sizeof(float), gram_.data, gram_.stride * sizeof(float), n * sizeof(float),
                          n, cudaMemcpyDeviceToDevice, context_->stream()),
        "cudaMemcpy2DAsync");
  check(kernels::add_to_diagonal(n, static_cast<float>(shift), rows(x), context_->stream()), "add_to_diagonal");
  if (!invert_positive(*context_, products_, x))
    fail(ErrorCode::numerical, "the Gram matrix + ", shift, " I is not positive definite (", n, " x ", n, ")");
  check(kernels::mirror_affine(n, 1, -static_cast<float>(shift), rows(x), context_->stream()), "mirror_affine");
}

// Methods that alternate begin every turn with the same shift: from the third turn on a copy takes the place of the
// factorisation.
bool CudaGramFactor::restore(double shift) {
  if (!kept_ || shift != inverted_) return false;
  copy_smoother(kept_.get(), smoother_.get());
  return true;
}

void CudaGramFactor::keep_if_repeated(double shift) {
  kept_.reset();
  if (shift == inverted_) {
    kept_ = context_->allocate(static_cast<std::size_t>(gram_.size()) * sizeof(float));
    copy_smoother(smoother_.get(), kept_.get());
  }
  inverted_ = shift;
}

void CudaGramFactor::copy_smoother(const void* from, void* to) const {
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(gram_.size()) * sizeof(float), cudaMemcpyDeviceToDevice,
                        context_->stream()),
        "cudaMemcpyAsync");
}

// m' = c0 m + c1 m^2 + m^2 (c2 m + c3 m^2): two f16 products instead of a factorisation.
void CudaGramFactor::update(double ratio) {
  const auto [c0, c1, c2, c3] = update_polynomial(ratio);
  const Index n = gram_.rows;
  const Temporary<float> square(*context_, n * n);
  const Temporary<__half> square_half(*context_, n * n), tail(*context_, n * n);
  products_.half_symmetric(1, half(), half(), 0, View(square, n, n));
  check(
      kernels::polynomial_terms(n * n, static_cast<float>(c0), static_cast<float>(c1), static_cast<float>(c2),
                                static_cast<float>(c3), smoother().data, square, square_half, tail, context_->stream()),
      "polynomial_terms");
  products_.half_symmetric(1, square_half, tail, 1, smoother());
}

void CudaGramFactor::make_half() {
  const Index n = gram_.rows;
  if (!half_) half_ = context_->allocate(static_cast<std::size_t>(n * n) * sizeof(__half));
  check(kernels::to_half(n, n, rows(ConstView(smoother())), half(), context_->stream()), "to_half");
}

void CudaGramFactor::smooth_scaled(ConstView x, View y, float* unscale) {
  const Temporary<__half> operand(*context_, x.size());
  check(kernels::rows_to_half(x.rows, x.cols, rows(x), operand, unscale, context_->stream()), "rows_to_half");
  products_.half(1, operand, half(), x.cols, 0, y);
}

void CudaGramFactor::do_smoother_diagonal(View out) {
  if (!ready_) fail(ErrorCode::internal, "smoother_diagonal before set_shift");
  const Context::Bind bind(*context_);
  check(kernels::gather(gram_.rows, {smoother().data, gram_.rows + 1}, out.data, context_->stream()), "gather");
}

void CudaGramFactor::do_apply_smoother(ConstView x, View y) {
  if (!ready_) fail(ErrorCode::internal, "apply_smoother before set_shift");
  const Context::Bind bind(*context_);
  if (halves(x.rows)) {
    const Temporary<float> unscale(*context_, x.rows);
    smooth_scaled(x, y, unscale);
    check(kernels::scale_rows(y.rows, y.cols, rows(y), unscale, context_->stream()), "scale_rows");
    return;
  }
  const bool reduced = precision_ != Precision::f32 && gram_.rows >= kSmall;
  if (reduced) products_.single(Precision::tf32, 1, x, Op::none, smoother(), Op::none, 0, y);
  else products_.full(1, x, Op::none, smoother(), Op::none, 0, y);
}

}  // namespace sparlow::cuda
