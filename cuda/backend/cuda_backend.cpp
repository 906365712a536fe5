#include "backend/cuda_backend.hpp"

#include "backend/gram_factor.hpp"
#include "backend/inverse.hpp"

namespace sparlow::cuda {
namespace {

std::shared_ptr<Context> make_context(int device, cudaStream_t stream) {
  check_device(device);
  return std::make_shared<Context>(device, stream);
}

void copy_rows(const void* from, Index from_stride, void* to, Index to_stride, Index width, Index height,
               cudaMemcpyKind kind, cudaStream_t stream) {
  check(cudaMemcpy2DAsync(to, static_cast<std::size_t>(to_stride), from, static_cast<std::size_t>(from_stride),
                          static_cast<std::size_t>(width), static_cast<std::size_t>(height), kind, stream),
        "cudaMemcpy2DAsync");
}

constexpr Index kFloat = sizeof(float);

}  // namespace

CudaBackend::CudaBackend(int device, cudaStream_t stream)
    : context_(make_context(device, stream)), products_(*context_) {}

void CudaBackend::wait() {
  const Bind bind(*context_);
  context_->wait();
}

std::shared_ptr<void> CudaBackend::do_allocate(std::size_t bytes) {
  const Bind bind(*context_);
  std::shared_ptr<void> memory = context_->allocate(bytes);
  check(cudaMemsetAsync(memory.get(), 0, bytes, context_->stream()), "cudaMemsetAsync");
  return memory;
}

void CudaBackend::do_upload(const float* values, View out) {
  const Bind bind(*context_);
  copy_rows(values, out.cols * kFloat, out.data, out.stride * kFloat, out.cols * kFloat, out.rows,
            cudaMemcpyHostToDevice, context_->stream());
  context_->wait();  // the caller may free its memory
}

void CudaBackend::do_download(ConstView x, float* values) {
  const Bind bind(*context_);
  if (x.cols == 1 && x.stride != 1) {  // a column or a diagonal
    const Temporary<float> packed(*context_, x.rows);
    check(kernels::gather(x.rows, rows(x), packed, context_->stream()), "gather");
    return context_->fetch(packed.get(), values, static_cast<std::size_t>(x.rows * kFloat));
  }
  copy_rows(x.data, x.stride * kFloat, values, x.cols * kFloat, x.cols * kFloat, x.rows, cudaMemcpyDeviceToHost,
            context_->stream());
  context_->wait();
}

void CudaBackend::do_copy(ConstView x, View out) {
  if (x.data == out.data) return;
  const Bind bind(*context_);
  copy_rows(x.data, x.stride * kFloat, out.data, out.stride * kFloat, x.cols * kFloat, x.rows, cudaMemcpyDeviceToDevice,
            context_->stream());
}

void CudaBackend::do_copy_mask(ConstMaskView x, MaskView out) {
  if (x.data == out.data) return;
  const Bind bind(*context_);
  copy_rows(x.data, x.stride, out.data, out.stride, x.cols, x.rows, cudaMemcpyDeviceToDevice, context_->stream());
}

void CudaBackend::do_symmetrise(View gram) {
  const Bind bind(*context_);
  check(kernels::symmetrise(gram.rows, rows(gram), context_->stream()), "symmetrise");
}

void CudaBackend::do_normalise_gram(ConstView gram, ConstView inverse_scale, ConstView diagonal, View out) {
  const Bind bind(*context_);
  check(
      kernels::normalise_gram(gram.rows, rows(gram), inverse_scale.data, diagonal.data, rows(out), context_->stream()),
      "normalise_gram");
}

void CudaBackend::do_axpby(double alpha, ConstView x, double beta, View y) {
  const Bind bind(*context_);
  check(kernels::axpby(x.rows, x.cols, static_cast<float>(alpha), rows(x), static_cast<float>(beta), rows(y),
                       context_->stream()),
        "axpby");
}

void CudaBackend::do_shrink(View x, double threshold) {
  const Bind bind(*context_);
  check(kernels::shrink(x.rows, x.cols, static_cast<float>(threshold), rows(x), context_->stream()), "shrink");
}

void CudaBackend::do_scale_columns(View x, ConstView scale, bool inverse) {
  const Bind bind(*context_);
  check(kernels::scale_columns(x.rows, x.cols, rows(x), scale.data, inverse, context_->stream()), "scale_columns");
}

void CudaBackend::do_randn(View out, std::uint64_t seed) {
  const Bind bind(*context_);
  check(kernels::randn(out.rows, out.cols, seed, rows(out), context_->stream()), "randn");
}

bool CudaBackend::do_all_finite(ConstView x) {
  const Bind bind(*context_);
  const Temporary<unsigned> flag(*context_, 1);
  check(cudaMemsetAsync(flag, 0, sizeof(unsigned), context_->stream()), "cudaMemsetAsync");
  check(kernels::any_nonfinite(x.rows, x.cols, rows(x), flag, context_->stream()), "any_nonfinite");
  unsigned found = 0;
  context_->fetch(flag.get(), &found, sizeof found);
  return found == 0;
}

double CudaBackend::do_dot(ConstView x, ConstView y) {
  const Bind bind(*context_);
  const Temporary<double> partials(*context_, kernels::kPartials), sum(*context_, 1);
  check(cudaMemsetAsync(sum, 0, sizeof(double), context_->stream()), "cudaMemsetAsync");
  check(kernels::dot(x.rows, x.cols, rows(x), rows(y), partials, sum, context_->stream()), "dot");
  double total = 0;
  context_->fetch(sum.get(), &total, sizeof total);
  return total;
}

void CudaBackend::do_nonzeros(ConstView x, MaskView mask) {
  const Bind bind(*context_);
  check(kernels::nonzeros(x.rows, x.cols, rows(x), rows(mask), context_->stream()), "nonzeros");
}

void CudaBackend::do_signs(ConstView x, MaskView mask) {
  const Bind bind(*context_);
  check(kernels::signs(x.rows, x.cols, rows(x), rows(mask), context_->stream()), "signs");
}

Index CudaBackend::do_changed(ConstMaskView a, ConstMaskView b) {
  const Bind bind(*context_);
  const Temporary<unsigned long long> count(*context_, 1);
  check(cudaMemsetAsync(count, 0, sizeof(unsigned long long), context_->stream()), "cudaMemsetAsync");
  check(kernels::count_changed(a.rows, a.cols, rows(a), rows(b), count, context_->stream()), "count_changed");
  unsigned long long differing = 0;
  context_->fetch(count.get(), &differing, sizeof differing);
  return static_cast<Index>(differing);
}

void CudaBackend::do_scale_by_mask(View x, ConstMaskView mask, double kept, double pruned) {
  const Bind bind(*context_);
  check(kernels::scale_by_mask(x.rows, x.cols, rows(x), rows(mask), static_cast<float>(kept),
                               static_cast<float>(pruned), context_->stream()),
        "scale_by_mask");
}

std::unique_ptr<GramFactor> CudaBackend::do_factor(ConstView gram) {
  const Bind bind(*context_);
  return std::make_unique<CudaGramFactor>(context_, precision_, gram);
}

void CudaBackend::do_inverse_factor(ConstView gram, View u, View diagonal) {
  const Bind bind(*context_);
  if (!invert_root(*context_, products_, gram, u))
    fail(ErrorCode::numerical, "the ", gram.rows, " x ", gram.rows, " Gram matrix is not positive definite");
  check(kernels::gather(gram.rows, {u.data, u.stride + 1}, diagonal.data, context_->stream()), "gather");
}

}  // namespace sparlow::cuda
