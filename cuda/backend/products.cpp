// Matrix products. cuBLAS is column-major: a row-major c = a b is its c^T = b^T a^T.
#include <algorithm>

#include "backend/cuda_backend.hpp"

namespace sparlow::cuda {
namespace {

constexpr double kSplitFlops = 4e9;  // smaller products gain nothing from splitting their operands
constexpr Index kSplitSide = 256;
constexpr double kReducedFlops = 2e7;  // smaller ones take the same time in f32
constexpr Index kTriangleBlock = 512;
constexpr Index kGramTokens = 8192;  // the matrix units round each addition down: shorter sums, smaller error
constexpr Index kSymmetricSide = 8192, kSymmetricBlock = 2048;
constexpr Index kOuterBlock = 1024;
constexpr Index kQuadraticRows = 4096, kQuadraticCols = 512;

// Scalars of products come from device memory in this scope.
class DeviceScalars {
 public:
  explicit DeviceScalars(cublasHandle_t handle) : handle_(handle) {
    check(cublasSetPointerMode(handle_, CUBLAS_POINTER_MODE_DEVICE), "cublasSetPointerMode");
  }
  ~DeviceScalars() { cublasSetPointerMode(handle_, CUBLAS_POINTER_MODE_HOST); }

 private:
  cublasHandle_t handle_;
};

cublasOperation_t operation(Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; }
Index leading(Index stride) { return std::max<Index>(1, stride); }

double flops_of(ConstView a, Op op_a, ConstView c) {
  return 2.0 * static_cast<double>(c.size()) * static_cast<double>(op_a == Op::none ? a.cols : a.rows);
}

cudaDataType_t data_type(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

}  // namespace

void Products::single(Precision precision, float alpha, ConstView a, Op op_a, ConstView b, Op op_b, float beta,
                      View c) const {
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  const cublasComputeType_t type = precision == Precision::f32 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_32F_FAST_TF32;
  check(cublasGemmEx_64(context_.blas(), operation(op_b), operation(op_a), c.cols, c.rows, inner, &alpha, b.data,
                        CUDA_R_32F, leading(b.stride), a.data, CUDA_R_32F, leading(a.stride), &beta, c.data, CUDA_R_32F,
                        leading(c.stride), type, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

void Products::half(float alpha, const __half* a, const __half* b, Index inner, float beta, View c) const {
  check(cublasGemmEx_64(context_.blas(), CUBLAS_OP_N, CUBLAS_OP_N, c.cols, c.rows, inner, &alpha, b, CUDA_R_16F, c.cols,
                        a, CUDA_R_16F, inner, &beta, c.data, CUDA_R_32F, leading(c.stride), CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

void Products::half_symmetric(float alpha, const __half* a, const __half* b, float beta, View c) const {
  const Index n = c.rows;
  if (n < kSymmetricSide) return half(alpha, a, b, n, beta, c);
  for (Index begin = 0; begin < n; begin += kSymmetricBlock) {
    const Index height = std::min(kSymmetricBlock, n - begin);
    check(cublasGemmEx_64(context_.blas(), CUBLAS_OP_N, CUBLAS_OP_N, n - begin, height, n, &alpha, b + begin,
                          CUDA_R_16F, n, a + begin * n, CUDA_R_16F, n, &beta, c.row(begin) + begin, CUDA_R_32F,
                          leading(c.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  }
  check(kernels::symmetrise(n, rows(c), context_.stream()), "symmetrise");
}

// Two halves of a matrix and what a product of two of them needs to undo their scale.
class Products::Split {
 public:
  Split(Context& context, ConstView x) : largest_(context, 1), halves_(context, 2 * x.size()), x_(x) {
    const cudaStream_t stream = context.stream();
    check(cudaMemsetAsync(largest_, 0, sizeof(unsigned), stream), "cudaMemsetAsync");
    check(kernels::largest_bits(x.rows, x.cols, rows(x), largest_, stream), "largest_bits");
    check(kernels::split_half(x.rows, x.cols, rows(x), largest_, halves_, halves_.get() + x.size(), stream),
          "split_half");
  }
  const __half* high() const { return halves_; }
  const __half* low() const { return halves_.get() + x_.size(); }
  const unsigned* largest() const { return largest_; }
  Index stride() const { return x_.cols; }

 private:
  Temporary<unsigned> largest_;
  Temporary<__half> halves_;
  ConstView x_;
};

void Products::multiply_split(const Split& a, Index a_offset, Op op_a, const Split& b, Index b_offset, Op op_b,
                              Index inner, const float* factors, View c) const {
  const DeviceScalars scalars(context_.blas());
  const auto multiply = [&](const __half* x, const __half* y, const float* factor, const float* keep) {
    check(cublasGemmEx_64(context_.blas(), operation(op_b), operation(op_a), c.cols, c.rows, inner, factor,
                          y + b_offset, CUDA_R_16F, b.stride(), x + a_offset, CUDA_R_16F, a.stride(), keep, c.data,
                          CUDA_R_32F, leading(c.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  };
  multiply(a.low(), b.high(), factors + 1, factors + 2);  // small terms first: their sum rounds less
  multiply(a.high(), b.low(), factors + 1, factors + 3);
  multiply(a.high(), b.high(), factors, factors + 3);
}

void Products::split(float alpha, ConstView a, Op op_a, ConstView b, Op op_b, float beta, View c) const {
  const Split left(context_, a), right(context_, b);
  const Temporary<float> factors(context_, 4);
  check(kernels::split_factors(alpha, beta, left.largest(), right.largest(), factors, context_.stream()),
        "split_factors");
  multiply_split(left, 0, op_a, right, 0, op_b, op_a == Op::none ? a.cols : a.rows, factors, c);
}

void Products::outer_upper(ConstView v, View c) const {
  const Index n = v.rows;
  if (n < kOuterBlock || n % 8 != 0) return single(Precision::f32, 1, v, Op::none, v, Op::transpose, 0, c);
  const Split halves(context_, v);
  const Temporary<float> factors(context_, 4);
  check(kernels::split_factors(1, 0, halves.largest(), halves.largest(), factors, context_.stream()), "split_factors");
  for (Index begin = 0; begin < n; begin += kOuterBlock) {
    const Index height = std::min(kOuterBlock, n - begin), corner = begin * (n + 1);  // v is zero left of it
    const View out = c.row_slice(begin, height).col_slice(begin, n - begin);
    multiply_split(halves, corner, Op::none, halves, corner, Op::transpose, n - begin, factors, out);
  }
}

void Products::full(float alpha, ConstView a, Op op_a, ConstView b, Op op_b, float beta, View c) const {
  const Index inner = op_a == Op::none ? a.cols : a.rows;
  const bool large = flops_of(a, op_a, c) >= kSplitFlops && std::min({inner, c.rows, c.cols}) >= kSplitSide;
  // Without 16-byte rows the matrix units are out of reach.
  const bool aligned = a.cols % 8 == 0 && b.cols % 8 == 0 && c.cols % 4 == 0;
  if (large && aligned) split(alpha, a, op_a, b, op_b, beta, c);
  else single(Precision::f32, alpha, a, op_a, b, op_b, beta, c);
}

void CudaBackend::do_gemm(double alpha, ConstView a, Op op_a, ConstView b, Op op_b, double beta, View c,
                          Accuracy accuracy) {
  const Bind bind(*context_);
  const auto left = static_cast<float>(alpha), keep = static_cast<float>(beta);
  if ((op_a == Op::none ? a.cols : a.rows) == 0)
    return check(kernels::scale(c.rows, c.cols, keep, rows(c), context_->stream()), "scale");
  const bool reduced = accuracy == Accuracy::reduced && precision_ != Precision::f32;
  if (reduced && flops_of(a, op_a, c) >= kReducedFlops)
    products_.single(Precision::tf32, left, a, op_a, b, op_b, keep, c);
  else products_.full(left, a, op_a, b, op_b, keep, c);
}

// Products of two 16-bit floats are exact in f32, so the sums are the only rounding. Blocks of rows of the upper
// triangle leave out nearly half of the work.
void CudaBackend::do_gram_update(TypedView x, View gram) {
  const Bind bind(*context_);
  if (x.dtype == DType::f32) {
    const ConstView wide{static_cast<const float*>(x.data), x.rows, x.cols, x.stride};
    return products_.full(1, wide, Op::transpose, wide, Op::none, 1, gram);
  }
  const float one = 1;
  const auto* data = static_cast<const std::uint16_t*>(x.data);
  const cudaDataType_t type = data_type(x.dtype);
  const Index stride = leading(x.stride);
  for (Index token = 0; token < x.rows; token += kGramTokens)
    for (Index begin = 0; begin < x.cols; begin += kTriangleBlock) {
      const Index height = std::min(kTriangleBlock, x.cols - begin), width = x.cols - begin;
      const std::uint16_t* block = data + token * stride + begin;
      check(cublasGemmEx_64(context_->blas(), CUBLAS_OP_N, CUBLAS_OP_T, width, height,
                            std::min(kGramTokens, x.rows - token), &one, block, type, stride, block, type, stride, &one,
                            gram.row(begin) + begin, CUDA_R_32F, leading(gram.stride), CUBLAS_COMPUTE_32F,
                            CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
    }
}

// f64 products of f64 copies, blocks of rows of e against blocks of rows of the Gram matrix: the diagonal block once,
// and twice what is right of it, for what is below it too.
double CudaBackend::do_quadratic(ConstView e, ConstView gram) {
  const Bind bind(*context_);
  const Index d = gram.cols, most_rows = std::min(kQuadraticRows, e.rows), most_cols = std::min(kQuadraticCols, d);
  const Temporary<double> left(*context_, most_rows * d), right(*context_, most_cols * d),
      product(*context_, most_rows * most_cols), partials(*context_, kernels::kPartials), sum(*context_, 1);
  const cudaStream_t stream = context_->stream();
  const double one = 1, zero = 0;
  check(cudaMemsetAsync(sum, 0, sizeof(double), stream), "cudaMemsetAsync");
  for (Index row = 0; row < e.rows; row += most_rows) {
    const ConstView block = e.row_slice(row, std::min(most_rows, e.rows - row));
    check(kernels::to_double(block.rows, d, d, rows(block), left, stream), "to_double");
    for (Index col = 0; col < d; col += most_cols) {
      const Index cols = std::min(most_cols, d - col), width = d - col;
      const ConstView part = gram.row_slice(col, cols).col_slice(col, width);
      check(kernels::to_double(cols, width, cols, rows(part), right, stream), "to_double");
      check(cublasDgemm_64(context_->blas(), CUBLAS_OP_T, CUBLAS_OP_N, cols, block.rows, width, &one, right, width,
                           left.get() + col, d, &zero, product, cols),
            "cublasDgemm");
      check(kernels::dot_double(block.rows, cols, product, rows(block.col_slice(col, cols)), partials, sum, stream),
            "dot");
    }
  }
  double total = 0;
  context_->fetch(sum.get(), &total, sizeof total);
  return total;
}

}  // namespace sparlow::cuda
