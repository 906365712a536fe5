#include "backend/gram_factor.hpp"

#include <array>
#include <cmath>

#include "backend/inverse.hpp"

namespace sparlow::cuda {
namespace {

constexpr Index kSmall = 256;         // factors below are inverted afresh and multiplied in f32
constexpr double kLargestRatio = 1.4; // of shifts, for an update by polynomial: error below 1.2e-3
constexpr int kLargestUpdates = 16;   // their rounding errors add up
constexpr Index kThin = 256;          // rows up to which converting to f16 costs more than it saves ...
constexpr Index kWide = 2048;         // ... unless reading the smoother is what takes the time

// Degree-2 fit on [0, 1] of g(m) = 1 / (ratio - (ratio - 1) m), through its Chebyshev points: g = c0 + c1 m + c2 m^2.
// With ratio = new / old shift, the new smoother is m g(m): a smooth, relatively small change of every eigenvalue.
std::array<double, 3> update_polynomial(double ratio) {
  const auto g = [ratio](double m) { return 1 / (ratio - (ratio - 1) * m); };
  const double half_width = std::sqrt(3.0) / 4, a = 0.5 - half_width, b = 0.5, c = 0.5 + half_width;
  const double first = (g(b) - g(a)) / (b - a), second = ((g(c) - g(b)) / (c - b) - first) / (c - a);
  return {g(a) - first * a + second * a * b, first - second * (a + b), second};
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
    invert(shift);
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

// m' = c0 m + m (c1 m + c2 m m): two f16 products instead of a factorisation.
void CudaGramFactor::update(double ratio) {
  const auto [c0, c1, c2] = update_polynomial(ratio);
  const Index n = gram_.rows;
  const cudaStream_t stream = context_->stream();
  const Temporary<float> square(*context_, n * n);
  const Temporary<__half> tail(*context_, n * n);
  products_.half_symmetric(1, half(), half(), 0, View(square, n, n));
  check(kernels::sum_to_half(n, n, static_cast<float>(c1), rows(ConstView(smoother())), static_cast<float>(c2), square,
                             tail, stream),
        "sum_to_half");
  products_.half_symmetric(1, half(), tail, static_cast<float>(c0), smoother());
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
